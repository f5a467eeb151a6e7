"""What a preprocessing command answers: a title, facts to print, and an exit status."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PreprocessResult:
    """What a job did."""

    # Where the data set is, as a folder or URL.
    out: str
    # Sources found, and how many of them could not be read at all.
    sources: int
    bad_sources: int
    # Chunks in all, and those that had to be processed now.
    chunks: int
    processed: int
    # Clips found and kept, and the length of the kept ones in seconds.
    clips: int
    kept: int
    kept_s: float
    # Shards, and the bytes of all samples.
    shards: int
    bytes: int
    # Rows in the quarantine table: bad sources and damaged stretches.
    quarantined: int
    # Wall time in seconds.
    seconds: float
    # Whether the data set was written anew; a threshold can do so with no chunk processed.
    is_new: bool
    # Whether rows in quarantine are a failure.
    strict: bool = False

    @property
    def title(self) -> str:
        """One line for a person."""
        return "preprocessing done" if self.is_new else "preprocessing: nothing new to do"

    @property
    def exit_code(self) -> int:
        """0, or 1 with `strict` where anything is in quarantine."""
        return 1 if self.strict and self.quarantined else 0

    def facts(self) -> dict[str, str]:
        """Return what to print, in order."""
        bad = f", {self.bad_sources:,} unreadable" if self.bad_sources else ""
        facts = {
            "sources": f"{self.sources:,}{bad}",
            "chunks": f"{self.chunks:,}, {self.processed:,} of them processed now",
            "clips": f"{self.kept:,} kept of {self.clips:,}, {duration(self.kept_s)}",
            "shards": f"{self.shards:,}, {self.bytes / 2**20:,.1f} MB",
        }
        if self.quarantined:
            facts["quarantine"] = f"{self.quarantined:,} rows: {self.out}/quarantine.parquet"
        return {
            **facts,
            "report": f"{self.out}/report.html",
            "time": duration(self.seconds),
        }


@dataclass(frozen=True)
class Forecast:
    """What a job would cost, from a sample of it."""

    # Sources found and readable, and their length in seconds.
    sources: int
    readable: int
    source_s: float
    # Chunks, and how many of them are not yet done.
    chunks: int
    todo: int
    # Expected for the whole job.
    clips: float
    kept_s: float
    bytes: float
    # Expected for what is not yet done.
    core_hours: float
    # Seconds of source that were processed to learn this.
    sampled_s: float

    title = "forecast (nothing was written)"
    exit_code = 0

    def facts(self) -> dict[str, str]:
        """Return what to print, in order."""
        return {
            "sources": f"{self.readable:,} readable of {self.sources:,}, {duration(self.source_s)}",
            "chunks": f"{self.chunks:,}, {self.todo:,} to do",
            "clips": f"about {self.clips:,.0f}, {duration(self.kept_s)}",
            "bytes": f"about {self.bytes / 2**20:,.1f} MB",
            "core-hours": f"about {self.core_hours:,.2f} to go",
            "learnt from": f"{self.sampled_s:,.0f} s of source, processed and thrown away",
        }


@dataclass(frozen=True)
class Verification:
    """Whether a data set's bytes are what its index says."""

    # Where it is.
    out: str
    # Members compared with their checksums.
    members: int
    # What is wrong, a line each.
    faults: tuple[str, ...]

    @property
    def title(self) -> str:
        """One line for a person."""
        return f"verification: {'all is as it should be' if not self.faults else 'DAMAGED'}"

    @property
    def exit_code(self) -> int:
        """0, or 1 where anything is wrong."""
        return 1 if self.faults else 0

    def facts(self) -> dict[str, str]:
        """Return what to print, in order."""
        facts = {"members compared": f"{self.members:,}"}
        for number, fault in enumerate(self.faults[:20], start=1):
            facts[f"fault {number}"] = fault
        if len(self.faults) > 20:
            facts["and"] = f"{len(self.faults) - 20:,} more"
        if self.faults:
            facts["remedy"] = (
                "delete the damaged shards and run preprocess again: it writes them anew"
            )
        return facts


def duration(seconds: float) -> str:
    """Return a length of time as a person would say it."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
