"""Sources become chunks: what there is to do, in one Parquet file.

A source is looked into once; its checksum, length and key frames are remembered with the size and
time stamp of the file, so that a second run over the same folder opens nothing.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import pyarrow as pa

from preprocessing.chunk.task import Chunk
from preprocessing.config import PreprocessConfig
from preprocessing.dataset.probe import SourceFacts, probe
from preprocessing.dataset.sources import SourceFile
from preprocessing.decode import DecodeError
from preprocessing.sandbox.isolate import Failure, Isolated, shared_child
from preprocessing.storage.index import parquet_bytes, read_parquet
from preprocessing.storage.remote_file import open_location
from preprocessing.storage.store import Store

#: Raised whenever the same source and settings give other clips than before.
ANALYSIS_VERSION = 6

_SOURCES = "_work/plan/sources.parquet"
_PLAN = "_work/plan/plan.parquet"
_PROBE_LIMIT_S = 600.0
_PROBE_STALL_S = 120.0
# Seconds decoded before a chunk's own stretch, so that a track crossing its start is known as one.
_LEAD_S = 1.0

_SOURCE_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("size", pa.int64()),
        ("stamp", pa.string()),
        ("sha256", pa.string()),
        ("duration_s", pa.float64()),
        ("fps", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("codec", pa.string()),
        ("variable_rate", pa.bool_()),
        ("rotation", pa.int32()),
        ("start_us", pa.int64()),
        ("key_us", pa.list_(pa.int64())),
        ("key_index", pa.list_(pa.int64())),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)


@dataclass(frozen=True)
class SourceEntry:
    """What one look into a source found; `reason` says why nothing, else it is empty."""

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


def look_into(
    file: SourceFile, config: PreprocessConfig, child: Isolated | None = None
) -> SourceEntry:
    """Probe a source in a process that can be killed; never raises for what is in it.

    `child` is the process to use; None for this thread's own.
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
    keys = found.key_frames if found.duration_s > _one_piece(config) else found.key_frames[:1]
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


def _probe(location: str) -> SourceFacts:
    try:
        return probe(open_location(location))
    except FileNotFoundError as error:
        raise DecodeError("missing", f"{location}: no such object") from error


def chunks_of(file: SourceFile, entry: SourceEntry, config: PreprocessConfig) -> list[Chunk]:
    """Cut one readable source at key frames into chunks of about the configured length."""
    common: dict[str, Any] = {
        "location": file.location,
        "source": file.name,
        "sha256": entry.sha256,
        "licence": file.licence,
        "origin_us": entry.start_us,
        "size": file.size,
        "stamp": file.stamp,
    }
    cuts = _cuts(entry, config)
    if not cuts:
        return [Chunk(**common, number=0, seconds=entry.duration_s)]
    # An edge of one chunk is seen this far by the other: long enough to know how a track goes on.
    reach_s = config.tube.min_s + _LEAD_S
    end_s = entry.start_us / 1e6 + entry.duration_s
    edges: list[float | None] = [None, *(key / 1e6 for key in cuts), None]
    chunks = []
    for number, (start, end) in enumerate(pairwise(edges)):
        position = _key_before(entry, start - reach_s) if start is not None else None
        chunks.append(
            Chunk(
                **common,
                number=number,
                start_s=start,
                end_s=end,
                decode_from_s=None if position is None else entry.key_us[position] / 1e6,
                decode_from_index=None if position is None else entry.key_index[position],
                decode_to_s=None if end is None else end + reach_s,
                seconds=(end if end is not None else end_s)
                - (start if start is not None else entry.start_us / 1e6),
            )
        )
    return chunks


def part_name(chunk: Chunk, analysis: str) -> str:
    """Return the name of the chunk's part: a digest of all that decides its content."""
    facts = asdict(chunk)
    for name in ("location", "source", "licence", "seconds", "size", "stamp"):
        del facts[name]
    text = json.dumps([facts, analysis], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:40]
    return f"_work/parts/{digest[:2]}/{digest}.tar"


def analysis_digest(config: PreprocessConfig, models: Mapping[str, str]) -> str:
    """Return the digest of the settings and weights that decide what clips a chunk gives.

    Thresholds and shard layout are left out: they apply to clips already cut.
    """
    settings = asdict(config)
    for section in ("plan", "filters", "shard", "decode"):
        del settings[section]
    settings["decoder"] = config.decode.backend
    del settings["detect"]["model_dir"]
    text = json.dumps([ANALYSIS_VERSION, settings, dict(models)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_entries(store: Store) -> dict[str, SourceEntry]:
    """Return what earlier runs remember of sources, by name."""
    if not store.exists(_SOURCES):
        return {}
    try:
        rows = read_parquet(store.read(_SOURCES)).to_pylist()
    except pa.ArrowInvalid:
        # Only a memory aid: looking into the sources again restores it.
        return {}
    return {
        row["name"]: SourceEntry(
            **{**row, "key_us": tuple(row["key_us"]), "key_index": tuple(row["key_index"])}
        )
        for row in rows
    }


def write_entries(store: Store, entries: Iterable[SourceEntry]) -> None:
    """Remember what was found in sources."""
    rows = [asdict(entry) for entry in sorted(entries, key=lambda entry: entry.name)]
    store.write_atomic(_SOURCES, parquet_bytes(pa.Table.from_pylist(rows, schema=_SOURCE_SCHEMA)))


def write_plan(store: Store, chunks: Sequence[Chunk], parts: Sequence[str]) -> None:
    """Publish the plan: one row a chunk, with the part that will hold its result."""
    rows = [
        {
            **asdict(c),
            "location": c.location.encode("utf-8", "backslashreplace").decode(),
            "part": p,
        }
        for c, p in zip(chunks, parts, strict=True)
    ]
    store.write_atomic(_PLAN, parquet_bytes(pa.Table.from_pylist(rows)))


def is_unchanged(file: SourceFile, entry: SourceEntry | None) -> bool:
    """Tell whether a source looks as it did when it was looked into."""
    return entry is not None and (entry.size, entry.stamp) == (file.size, file.stamp)


def _one_piece(config: PreprocessConfig) -> float:
    return 1.5 * config.plan.chunk_s


def _cuts(entry: SourceEntry, config: PreprocessConfig) -> list[int]:
    """Return the key frames (microseconds) at which chunks begin, without the first."""
    if entry.duration_s <= _one_piece(config):
        return []
    step_us = config.plan.chunk_s * 1e6
    end_us = entry.start_us + entry.duration_s * 1e6
    cuts: list[int] = []
    last: float = entry.start_us
    for key in entry.key_us:
        if key - last >= step_us and end_us - key >= step_us / 2:
            cuts.append(key)
            last = key
    return cuts


def _key_before(entry: SourceEntry, time_s: float) -> int:
    """Return the position of the last key frame at or before a time, the first if there is none."""
    earlier = [i for i, key in enumerate(entry.key_us) if key <= time_s * 1e6]
    return earlier[-1] if earlier else 0
