"""How far a preprocessing job is, for whoever wants to know, and on the terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# Without a terminal to redraw, a line this often says that things move.
_LINE_EVERY_S = 15.0
_TITLES = {"plan": "looking into sources", "process": "processing", "seal": "writing shards"}


@dataclass(frozen=True)
class JobProgress:
    """How far a job has come."""

    # "plan", "process", "seal" or "done".
    stage: str
    # Units done and in all: sources in "plan", seconds of source in "process", shards in "seal".
    done: float
    total: float
    # Clips kept and found so far, and rows for the quarantine table.
    kept: int = 0
    clips: int = 0
    quarantined: int = 0

    @property
    def note(self) -> str:
        """The counts in a few words; empty before there are any."""
        bad = f", {self.quarantined} in quarantine" if self.quarantined else ""
        return f"{self.kept} clips kept of {self.clips}{bad}" if self.clips or bad else ""


OnProgress = Callable[[JobProgress], None]


@contextmanager
def terminal_progress() -> Iterator[OnProgress]:
    """Show progress on standard error: a bar on a terminal, now and then a line elsewhere."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("{task.description:<22}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        tasks = {
            stage: bar.add_task(title, total=None, visible=False, note="")
            for stage, title in _TITLES.items()
        }

        def show(progress: JobProgress) -> None:
            task = tasks.get(progress.stage)
            if task is not None:
                bar.update(
                    task,
                    completed=progress.done,
                    total=progress.total or 1.0,
                    visible=True,
                    note=progress.note,
                )

        yield show


def _lines() -> OnProgress:
    stage, at = "", 0.0

    def show(progress: JobProgress) -> None:
        nonlocal stage, at
        now = time.monotonic()
        due = progress.stage != stage or now - at >= _LINE_EVERY_S
        if progress.stage not in _TITLES or not due:
            return
        stage, at = progress.stage, now
        share = 100 * progress.done / progress.total if progress.total else 100.0
        note = f", {progress.note}" if progress.note else ""
        print(f"{_TITLES[progress.stage]}: {share:.0f} %{note}", file=sys.stderr, flush=True)

    return show
