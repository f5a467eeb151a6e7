"""What is remembered of each source between runs: one probe per file, in one Parquet file.

Checksum, length and key frames are stored with the size and time stamp of the file, so that a
second run over the same folder opens nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import pyarrow as pa

from preprocessing.config import PreprocessConfig
from preprocessing.dataset.probe import SourceFacts, probe
from preprocessing.dataset.sources import SourceFile
from preprocessing.decode import DecodeError
from preprocessing.sandbox.isolate import Failure, Isolated, shared_child
from preprocessing.storage.index import iter_rows, parquet_bytes, read_parquet
from preprocessing.storage.location import open_location
from preprocessing.storage.store import Store

_SOURCES = "_work/sources.parquet"
_PROBE_LIMIT_S = 600.0
_PROBE_STALL_S = 120.0


@dataclass(frozen=True)
class SourceEntry:
    """Result of probing one source; `reason` is empty where it can be read."""

    name: str
    size: int
    stamp: str
    sha256: str = ""
    duration_s: float = 0.0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    codec: str = ""
    variable_rate: bool = False
    rotation: int = 0
    start_us: int = 0
    key_us: tuple[int, ...] = ()
    key_index: tuple[int, ...] = ()
    reason: str = ""
    detail: str = ""

    def is_of(self, file: SourceFile) -> bool:
        """Return whether the file still has the size and time stamp of when it was probed."""
        return (self.size, self.stamp) == (file.size, file.stamp)


_TYPES: dict[object, pa.DataType] = {
    str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_(),
    tuple[int, ...]: pa.list_(pa.int64()),
}  # fmt: skip
_SCHEMA = pa.schema([(field.name, _TYPES[field.type]) for field in fields(SourceEntry)])


def probe_source(
    file: SourceFile, config: PreprocessConfig, child: Isolated | None = None
) -> SourceEntry:
    """Probe a source in a sandboxed process; never raises for the content of the source.

    Args:
        file: the source.
        config: settings; the memory limit and the length of chunks are used.
        child: the process to use; None for this thread's own.
    """
    found = (child or shared_child()).run(
        _probe,
        file.location,
        time_limit_s=_PROBE_LIMIT_S,
        stall_limit_s=_PROBE_STALL_S,
        memory_limit_mb=config.decode.memory_limit_mb,
    )
    if isinstance(found, Failure):
        return SourceEntry(
            file.name, file.size, file.stamp, reason=found.reason, detail=found.detail
        )
    assert isinstance(found, SourceFacts)
    info = found.info
    # Key frames matter only where a source may be cut.
    keys = found.key_frames if found.duration_s > one_piece_s(config) else found.key_frames[:1]
    return SourceEntry(
        name=file.name,
        size=file.size,
        stamp=file.stamp,
        sha256=found.sha256,
        duration_s=found.duration_s,
        fps=found.fps,
        width=info.width,
        height=info.height,
        codec=info.codec,
        variable_rate=found.is_vfr,
        rotation=info.rotation,
        start_us=info.start_us,
        key_us=tuple(key.time_us for key in keys),
        key_index=tuple(key.index for key in keys),
    )


def one_piece_s(config: PreprocessConfig) -> float:
    """Return the length in seconds up to which a source is one chunk."""
    return 1.5 * config.plan.chunk_s


def _probe(location: str) -> SourceFacts:
    try:
        return probe(open_location(location))
    except FileNotFoundError as error:
        raise DecodeError("missing", f"{location}: no such object") from error


def read_entries(store: Store) -> dict[str, SourceEntry]:
    """Return the entries of earlier runs, by source name."""
    if not store.exists(_SOURCES):
        return {}
    try:
        table = read_parquet(store.read(_SOURCES))
    except pa.ArrowInvalid:
        # A cache only: probing the sources again restores it.
        return {}
    return {
        row["name"]: SourceEntry(
            **{**row, "key_us": tuple(row["key_us"]), "key_index": tuple(row["key_index"])}
        )
        for row in iter_rows(table)
    }


def write_entries(store: Store, entries: Iterable[SourceEntry]) -> None:
    """Store the entries for the next run."""
    ordered = sorted(entries, key=lambda entry: entry.name)
    columns = {name: [getattr(entry, name) for entry in ordered] for name in _SCHEMA.names}
    store.write_atomic(_SOURCES, parquet_bytes(pa.table(columns, schema=_SCHEMA)))
