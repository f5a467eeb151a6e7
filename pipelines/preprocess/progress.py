"""Progress of a preprocessing job, as its callback receives it."""

from collections.abc import Callable
from dataclasses import dataclass

from pipelines.terminal.live_progress import ReportProgress

# Label of each stage on the terminal, with the unit it counts.
_LABELS = {
    "plan": "sources probed",
    "process": "seconds processed",
    "finalize": "shards written",
    "verify": "shards verified",
}


@dataclass(frozen=True)
class JobProgress:
    """State of a job."""

    # "plan", "process", "finalize" or "done"; "verify" of a verification.
    stage: str
    # Units done and in total: sources in "plan", seconds of source in "process", else shards.
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


def show_live(show: ReportProgress) -> OnProgress:
    """Return a callback that shows a job's progress by `live_progress`."""

    def notify(progress: JobProgress) -> None:
        if progress.stage in _LABELS:
            show(_LABELS[progress.stage], progress.done, progress.total, progress.note)

    return notify
