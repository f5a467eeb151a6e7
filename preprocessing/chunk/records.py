"""What crosses the border of the chunk task: its input, its clips and its summary."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

#: A row of the index or the quarantine table, by column.
Row = dict[str, Any]


@dataclass(frozen=True)
class Chunk:
    """A stretch of one source that one task processes."""

    # Path or URL to open.
    location: str
    # Name of the source in the data set.
    source: str
    # Checksum of the source's bytes; names its samples.
    sha256: str
    licence: str
    # Number of the chunk within the source.
    number: int
    # Time of the source's first frame in microseconds: the origin of the clock.
    origin_us: int
    # Clips that begin in [start_s, end_s) belong to this chunk; None for the source's own ends.
    start_s: float | None = None
    end_s: float | None = None
    # Key frame to decode from, with its frame number, and where to stop.
    decode_from_s: float | None = None
    decode_from_index: int | None = None
    decode_to_s: float | None = None
    # Estimated length in seconds, for time limits and progress.
    seconds: float = 0.0
    # Size and time stamp of the source when it was found; "" skips the comparison.
    size: int = -1
    stamp: str = ""


@dataclass(frozen=True, eq=False)
class ClipResult:
    """A clip as it leaves the task; `mp4` and `npz` are empty where it is dropped."""

    row: Row
    mp4: bytes
    npz: bytes
    # Three frames side by side as JPEG, for the report.
    strip: bytes


@dataclass(frozen=True)
class ChunkEnd:
    """Summary of a chunk, yielded after its last clip."""

    # Times of cuts inside the chunk's own stretch, in milliseconds from the source's first frame.
    cuts_ms: tuple[int, ...]
    # Frames on the 25 fps clock, and how many of them the detector processed.
    frames: int
    detector_runs: int
    # Undecodable stretches: (start_s, end_s, reason, detail).
    damage: tuple[tuple[float, float, str, str], ...]
    # Seconds spent by stage.
    stages: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ChunkRecord:
    """What the driver learns of one chunk: small numbers only, never frames."""

    # Name of the chunk output in the store.
    output: str
    # "done", or "full" or "failed" where the output could not be written; `detail` says why.
    status: str = "done"
    detail: str = ""
    # Clips found, kept, and dropped by reason.
    clips: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    kept_s: float = 0.0
    # Estimated length of the chunk, and frames decoded from it.
    seconds: float = 0.0
    frames: int = 0
    # Bytes of kept samples, rows for the quarantine table, and seconds of work.
    bytes: int = 0
    damage: int = 0
    busy_s: float = 0.0


class Stopwatch:
    """Adds up the wall time of named stages."""

    def __init__(self) -> None:
        self._spent: Counter[str] = Counter()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count the time of a block."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._spent[stage] += time.perf_counter() - began  # type: ignore[assignment]

    def each(self, stage: str, items: Iterable[T]) -> Iterator[T]:
        """Yield items and count the time it takes to get each."""
        source = iter(items)
        while True:
            with self(stage):
                try:
                    item = next(source)
                except StopIteration:
                    return
            yield item

    def seconds(self) -> dict[str, float]:
        """Return the seconds spent, by stage."""
        return {stage: float(spent) for stage, spent in sorted(self._spent.items())}
