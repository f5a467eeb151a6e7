"""Runs one chunk in the sandbox, works around failures, and publishes the chunk output."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from preprocessing.chunk.output import pack_output
from preprocessing.chunk.records import Chunk, ChunkEnd, ChunkRecord, ClipResult, Row
from preprocessing.chunk.task import process_chunk
from preprocessing.config import PreprocessConfig
from preprocessing.sandbox.isolate import Failure, shared_child
from preprocessing.storage.location import location_status
from preprocessing.storage.store import Store

# Times a chunk may hang or crash at different positions before its rest is given up.
_MOST_FAILURES = 4
# Seconds left out before and after the position of a failure.
_BEFORE_S, _AFTER_S = 0.1, 0.5
# Reasons after which the same frames would fail again, so they are left out.
_LOCAL = {"timeout", "crash", "memory"}


@dataclass
class _Outcome:
    """What the stretches of one chunk gave."""

    clips: list[ClipResult] = field(default_factory=list)
    cuts_ms: list[int] = field(default_factory=list)
    frames: int = 0
    detector_runs: int = 0
    stages: Counter[str] = field(default_factory=Counter)
    damage: list[Row] = field(default_factory=list)

    def add(self, clips: list[ClipResult], end: ChunkEnd) -> None:
        self.clips += clips
        self.cuts_ms += end.cuts_ms
        self.frames += end.frames
        self.detector_runs += end.detector_runs
        self.stages.update(end.stages)
        for start_s, end_s, reason, detail in end.damage:
            self.add_damage(start_s, end_s, reason, detail)

    def add_damage(self, start_s: float, end_s: float, reason: str, detail: str) -> None:
        row = {"stage": "decode", "reason": reason, "detail": detail}
        self.damage.append({**row, "start_s": start_s, "end_s": end_s})


def run_chunk(chunk: Chunk, output: str, store: Store, config: PreprocessConfig) -> ChunkRecord:
    """Process a chunk, publish its output and return a small record of it.

    A source that yields nothing still gives an output, with a row for the quarantine table. So does
    one that was replaced or written to meanwhile, as its clips would carry the old checksum.

    Args:
        chunk: the chunk.
        output: name of its output in the store.
        store: where the data set is.
        config: settings.

    Raises:
        OSError: the output cannot be written.
    """
    outcome = _Outcome()
    stretches = [chunk]
    failures = 0
    while stretches:
        stretch = stretches.pop(0)
        clips, end, failure = _attempt(stretch, config)
        if end is not None:
            outcome.add(clips, end)
            continue
        assert failure is not None
        failures += 1
        reached_us = failure.reached
        if failure.reason not in _LOCAL or reached_us is None or failures > _MOST_FAILURES:
            # The rest is given up; clips that were finished are kept.
            outcome.clips += clips
            start_s = _seconds(reached_us, stretch.decode_from_s)
            outcome.add_damage(start_s, start_s, failure.reason, failure.detail)
            continue
        at_s = reached_us / 1e6
        outcome.add_damage(at_s, at_s + _AFTER_S, failure.reason, failure.detail)
        stretches = _around(stretch, at_s) + stretches
    if _has_changed(chunk):
        outcome = _Outcome()
        detail = "the source was written to after planning; run the same command again"
        outcome.add_damage(*(_seconds(None, chunk.start_s),) * 2, "changed", detail)
    end = ChunkEnd(
        cuts_ms=tuple(outcome.cuts_ms),
        frames=outcome.frames,
        detector_runs=outcome.detector_runs,
        damage=(),
        stages=dict(sorted(outcome.stages.items())),
    )
    store.write_atomic(output, pack_output(outcome.clips, end, outcome.damage))
    kept = [clip for clip in outcome.clips if clip.row["status"] == "kept"]
    return ChunkRecord(
        output=output,
        clips=len(outcome.clips),
        kept=len(kept),
        dropped=dict(Counter(c.row["reason"] for c in outcome.clips if c.row["reason"])),
        kept_s=float(sum(clip.row["duration_s"] for clip in kept)),
        seconds=chunk.seconds,
        frames=outcome.frames,
        bytes=sum(len(clip.mp4) + len(clip.npz) for clip in kept),
        damage=len(outcome.damage),
        busy_s=float(sum(outcome.stages.values())),
    )


def _attempt(
    chunk: Chunk, config: PreprocessConfig
) -> tuple[list[ClipResult], ChunkEnd | None, Failure | None]:
    """Run a stretch once; return its clips, and how it ended."""
    clips: list[ClipResult] = []
    end: ChunkEnd | None = None
    # Read to the very end: a child with an unread message counts as stuck and is replaced.
    for item in _stream(chunk, config):
        if isinstance(item, ClipResult):
            clips.append(item)
        elif isinstance(item, ChunkEnd):
            end = item
        elif isinstance(item, Failure):
            return clips, None, item
    if end is None:
        return clips, None, Failure("crash", "the process ended without a message")
    return clips, end, None


def _stream(chunk: Chunk, config: PreprocessConfig) -> Iterator[Any]:
    limits = config.decode
    return shared_child().stream(
        process_chunk,
        chunk,
        config,
        time_limit_s=limits.stall_limit_s + limits.time_limit_ratio * max(chunk.seconds, 1.0),
        stall_limit_s=limits.stall_limit_s,
        memory_limit_mb=limits.memory_limit_mb,
    )


def _around(chunk: Chunk, at_s: float) -> list[Chunk]:
    """Return the stretches before and after a position that cannot be decoded."""
    stretches = []
    before, after = at_s - _BEFORE_S, at_s + _AFTER_S
    if before > (chunk.decode_from_s or chunk.origin_us / 1e6):
        stretches.append(replace(chunk, decode_to_s=before))
    if chunk.decode_to_s is None or after < chunk.decode_to_s:
        stretches.append(replace(chunk, decode_from_s=after, decode_from_index=None))
    return stretches


def _has_changed(chunk: Chunk) -> bool:
    """Return whether the source differs from what was found.

    A source that is gone has not changed: what was decoded of it is what was planned.
    """
    size, stamp = location_status(chunk.location)
    return bool(chunk.stamp) and size >= 0 and (size, stamp) != (chunk.size, chunk.stamp)


def _seconds(time_us: int | None, otherwise: float | None) -> float:
    return time_us / 1e6 if time_us is not None else (otherwise or 0.0)
