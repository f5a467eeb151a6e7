"""How far a preprocessing job is, for whoever wants to know."""

from collections.abc import Callable
from dataclasses import dataclass

from pipelines.terminal.live_progress import ReportProgress

# Stages as a person sees them, each with the unit it counts in.
_TITLES = {
    "plan": "sources seen",
    "process": "seconds done",
    "seal": "shards sealed",
    "verify": "shards verified",
}


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


def shown_by(tell: ReportProgress) -> OnProgress:
    """Return a callback that shows a job's progress by `live_progress`."""

    def show(progress: JobProgress) -> None:
        if progress.stage in _TITLES:
            tell(_TITLES[progress.stage], progress.done, progress.total, progress.note)

    return show
