"""Results of `xnemo synthesize`: a title and facts to print."""

from dataclasses import dataclass

from pipelines.preprocess.result import duration


@dataclass(frozen=True)
class SynthesisResult:
    """Result of a job."""

    # Folder or URL of the clips.
    out: str
    # Clips, and those made by this run.
    clips: int
    made: int
    # Motions that are shared by groups of people.
    motions: int
    # Length of all clips in seconds.
    video_s: float
    # Frames and bytes made by this run, and its wall time in seconds.
    frames: int
    bytes: int
    seconds: float

    @property
    def title(self) -> str:
        """One line for the user."""
        return "synthesis done" if self.made else "synthesis: nothing new to do"

    def facts(self) -> dict[str, str]:
        """Return what to print, in order."""
        return {
            "clips": f"{self.clips:,}, {self.made:,} of them made now, {duration(self.video_s)}",
            "motions": f"{self.motions:,}",
            "made now": f"{self.frames:,} frames, {self.bytes / 2**20:,.1f} MB",
            "time": duration(self.seconds),
        }


@dataclass(frozen=True)
class SynthesisForecast:
    """Expected cost of a job, from the beginning of its first clips."""

    clips: int
    todo: int
    # Length of all clips in seconds.
    video_s: float
    # Expected for the clips that are pending.
    bytes: float
    core_hours: float
    # Frames of a second on one core.
    frames_per_s: float

    title = "forecast (nothing was written)"

    def facts(self) -> dict[str, str]:
        """Return what to print, in order."""
        return {
            "clips": f"{self.clips:,}, {self.todo:,} pending, {duration(self.video_s)}",
            "bytes": f"about {self.bytes / 2**20:,.1f} MB",
            "core-hours": f"about {self.core_hours:,.2f}",
            "speed": f"{self.frames_per_s:,.1f} frames/s on one core",
        }
