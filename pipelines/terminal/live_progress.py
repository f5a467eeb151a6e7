"""Live progress on standard error: one line a stage, redrawn in place; plain lines in a log."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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

#: What a stage calls: its name, units done, units in all (0 while unknown), and words beside them.
Tell = Callable[[str, float, float, str], None]

#: Seconds between two lines of the same stage where the output is no terminal.
_LOG_EVERY_S = 15.0


@contextmanager
def live_progress() -> Iterator[Tell]:
    """Show progress on standard error for the length of a block; yields the function to call."""
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

        def tell(stage: str, done: float, total: float, note: str = "") -> None:
            if stage not in rows:
                rows[stage] = bars.add_task(stage, total=None, note="")
            known = round(total) if total else None
            bars.update(rows[stage], completed=round(done), total=known, note=note)  # type: ignore[arg-type]

        yield tell


def _log_lines(console: Console) -> Tell:
    """Print a line when a stage begins, ends, and now and then between."""
    last: dict[str, float] = {}

    def tell(stage: str, done: float, total: float, note: str = "") -> None:
        now = time.monotonic()
        ended = bool(total) and done >= total
        if stage in last and not (ended and last[stage] >= 0) and now - last[stage] < _LOG_EVERY_S:
            return
        if last.get(stage, 0.0) == float("inf"):
            return
        last[stage] = float("inf") if ended else now
        amount = f"{done:,.0f}/{total:,.0f}" if total else f"{done:,.0f}"
        console.print(f"{stage}: {amount} {note}".rstrip(), soft_wrap=True)

    return tell
