"""Results of the preprocessing commands: a title, facts to print, and an exit status."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from preprocessing.chunk.records import Row
from preprocessing.dataset.plan import Plan
from preprocessing.dataset.quarantine import read_quarantine
from preprocessing.storage.sample import MEMBERS
from preprocessing.storage.store import Store

# Lines of one kind that are printed.
_LINES = 20


@dataclass(frozen=True)
class PreprocessResult:
    """Result of a job."""

    # Folder or URL of the data set.
    out: str
    # Sources found, and how many of them could not be read at all.
    sources: int
    bad_sources: int
    # Chunks in total, and those processed by this run.
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
    # Whether the data set was written; a changed threshold writes it with no chunk processed.
    is_new: bool
    # Clips dropped, by reason, most frequent first.
    dropped: Mapping[str, int]
    # Whether rows in quarantine are a failure.
    strict: bool = False

    @classmethod
    def of(
        cls, plan: Plan, rows: Iterable[Row], store: Store, began: float, *, strict: bool
    ) -> "PreprocessResult":
        """Return the result of a job from its plan and the rows of its index.

        Args:
            plan: what there was to do.
            rows: rows of the index.
            store: where the data set is.
            began: when the job began, by `time.monotonic`.
            strict: whether rows in quarantine are a failure.
        """
        clips = kept = size = 0
        kept_s = 0.0
        shards: set[str] = set()
        dropped: Counter[str] = Counter()
        for row in rows:
            clips += 1
            if row["reason"]:
                dropped[row["reason"]] += 1
            if row["status"] == "kept":
                kept += 1
                kept_s += row["duration_s"]
                size += sum(row[f"{name}_length"] for name in MEMBERS)
                shards.add(row["shard"])
        return cls(
            out=store.url,
            sources=len(plan.found.files),
            bad_sources=len(plan.found.files) - len(plan.readable) - len(plan.same),
            chunks=len(plan.chunks),
            processed=len(plan.todo),
            clips=clips,
            kept=kept,
            kept_s=kept_s,
            shards=len(shards),
            bytes=size,
            quarantined=len(read_quarantine(store)),
            seconds=time.monotonic() - began,
            is_new=plan.current is None,
            dropped=dict(dropped.most_common()),
            strict=strict,
        )

    @property
    def title(self) -> str:
        """One line for the terminal."""
        return "preprocessing done" if self.is_new else "preprocessing: nothing new to do"

    @property
    def exit_code(self) -> int:
        """0, or 1 with `strict` where anything is in quarantine."""
        return 1 if self.strict and self.quarantined else 0

    def facts(self) -> dict[str, str]:
        """Return the lines to print, by label."""
        bad = f", {self.bad_sources:,} unreadable" if self.bad_sources else ""
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items())
        facts = {
            "sources": f"{self.sources:,}{bad}",
            "chunks": f"{self.chunks:,}, {self.processed:,} of them processed by this run",
            "clips": f"{self.kept:,} kept of {self.clips:,}, {duration(self.kept_s)}",
            **({"dropped": dropped} if dropped else {}),
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
    """Expected cost of a job, extrapolated from a sample."""

    # Sources found and readable, and their length in seconds.
    sources: int
    readable: int
    source_s: float
    # Chunks, and how many of them are pending.
    chunks: int
    todo: int
    # Expected for the whole job.
    clips: float
    kept_s: float
    bytes: float
    # Expected for the pending chunks.
    core_hours: float
    # Seconds of source in the sample.
    sampled_s: float
    # One line per unreadable source: its name, the reason and the detail.
    unreadable: tuple[str, ...]
    # One line per long stretch that cannot be divided between cores.
    undivided: tuple[str, ...] = ()

    title = "forecast (nothing was written)"
    exit_code = 0

    def facts(self) -> dict[str, str]:
        """Return the lines to print, by label."""
        return {
            "sources": f"{self.readable:,} readable of {self.sources:,}, {duration(self.source_s)}",
            **_listed("unreadable", self.unreadable),
            "chunks": f"{self.chunks:,}, {self.todo:,} to do",
            **_listed("undivided", self.undivided),
            "clips": f"about {self.clips:,.0f}, {duration(self.kept_s)}",
            "bytes": f"about {self.bytes / 2**20:,.1f} MB",
            "core-hours": f"about {self.core_hours:,.2f} left",
            "sample": f"{self.sampled_s:,.0f} s of source, processed and discarded",
        }


@dataclass(frozen=True)
class Verification:
    """Result of comparing a data set with its checksums."""

    # Folder or URL of the data set.
    out: str
    # Members compared with their checksums.
    members: int
    # One line per fault.
    faults: tuple[str, ...]

    @property
    def title(self) -> str:
        """One line for the terminal."""
        return f"verification: {'no faults' if not self.faults else 'DAMAGED'}"

    @property
    def exit_code(self) -> int:
        """0, or 1 where anything is wrong."""
        return 1 if self.faults else 0

    def facts(self) -> dict[str, str]:
        """Return the lines to print, by label."""
        facts = {"members compared": f"{self.members:,}", **_listed("fault", self.faults)}
        if self.faults:
            facts["how to fix it"] = (
                "delete the damaged shards and run preprocess again: it rewrites them"
            )
        return facts


def _listed(label: str, lines: Sequence[str]) -> dict[str, str]:
    """Return the first lines by numbered labels, and how many more there are."""
    facts = {f"{label} {n}": line for n, line in enumerate(lines[:_LINES], start=1)}
    if len(lines) > _LINES:
        facts[f"more {label}"] = f"{len(lines) - _LINES:,}"
    return facts


def duration(seconds: float) -> str:
    """Return a length of time in seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
