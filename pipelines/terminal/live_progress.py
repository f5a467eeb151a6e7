"""Live progress on standard error: one updated line a stage; plain lines if not a terminal."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# Seconds between two lines of a stage where the output is not a terminal.
_LOG_INTERVAL_S = 15.0


class ReportProgress(Protocol):
    """Function that shows the progress of a stage."""

    def __call__(self, stage: str, done: float, total: float, note: str = "") -> None:
        """Show units done, units in total (0: unknown), and a note."""


@contextmanager
def live_progress() -> Iterator[ReportProgress]:
    """Show progress on standard error inside the block; yields the function to call."""
    console = Console(stderr=True, highlight=False, markup=False)
    if not console.is_terminal:
        yield _log_lines(console)
        return
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description:<12}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
        console=console,
    ) as bars:
        rows: dict[str, int] = {}

        def report(stage: str, done: float, total: float, note: str = "") -> None:
            if stage not in rows:
                rows[stage] = bars.add_task(stage, total=None, note="")
            known = round(total) if total else None
            bars.update(rows[stage], completed=round(done), total=known, note=note)  # type: ignore[arg-type]

        yield report


def _log_lines(console: Console) -> ReportProgress:
    """Print a line at the start and the end of a stage, and at intervals between."""
    # Time of the last line of a stage; infinite after its end.
    printed: dict[str, float] = {}

    def report(stage: str, done: float, total: float, note: str = "") -> None:
        now = time.monotonic()
        ended = bool(total) and done >= total
        last = printed.get(stage, -math.inf)
        if last == math.inf or (now - last < _LOG_INTERVAL_S and not ended):
            return
        printed[stage] = math.inf if ended else now
        amount = f"{done:,.0f}/{total:,.0f}" if total else f"{done:,.0f}"
        console.print(f"{stage}: {amount} {note}".rstrip(), soft_wrap=True)

    return report
