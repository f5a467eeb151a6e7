"""Reads all chunk outputs into one table: every clip named, with its filter decision."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from sys import intern
from typing import Any

from preprocessing.chunk.filters import drop_reason
from preprocessing.chunk.output import read_outputs
from preprocessing.chunk.records import Chunk, ChunkEnd, Row
from preprocessing.config import PreprocessConfig
from preprocessing.storage.sample import sample_key
from preprocessing.storage.store import Store


@dataclass(frozen=True)
class ChunkSummary:
    """What the report needs to know of one chunk."""

    source: str
    # Length of the chunk in seconds of source.
    seconds: float
    end: ChunkEnd


@dataclass(frozen=True)
class Gathered:
    """All clips of a job before duplicates, identities and shards."""

    # Rows of the index, sorted by key, with the position of their members in the chunk outputs.
    rows: list[Row]
    # Rows of the quarantine table that the chunks gave.
    damage: list[Row]
    chunks: list[ChunkSummary]


def gather(
    store: Store, chunks: Sequence[Chunk], outputs: Sequence[str], config: PreprocessConfig
) -> Gathered:
    """Read the outputs of all chunks; name every clip and apply the thresholds."""
    rows: dict[str, Row] = {}
    damage: list[Row] = []
    summaries: list[ChunkSummary] = []
    by_source: dict[str, list[tuple[Chunk, str]]] = {}
    for chunk, output in zip(chunks, outputs, strict=True):
        by_source.setdefault(chunk.source, []).append((chunk, output))
    ordered = [pair for source in sorted(by_source) for pair in by_source[source]]
    heads = read_outputs(store, [output for _, output in ordered])
    for source in sorted(by_source):
        contents = [(chunk, next(heads)) for chunk, _ in by_source[source]]
        cuts = sorted({ms for _, head in contents for ms in head.end.cuts_ms})
        for chunk, head in contents:
            summaries.append(ChunkSummary(source, chunk.seconds, head.end))
            damage += [_damage_row(d, chunk) for d in head.damage]
            for row in head.rows:
                named = _index_row(row, chunk, cuts, config)
                # Two chunks may both cut a clip out of the stretch they share.
                rows.setdefault(named["key"], named)
    return Gathered([rows[key] for key in sorted(rows)], damage, summaries)


def _index_row(row: Row, chunk: Chunk, cuts_ms: Sequence[int], config: PreprocessConfig) -> Row:
    """Return a chunk output's row with its final name, source and filter decision."""
    shot = max(0, bisect_right(cuts_ms, row["start_ms"]) - 1)
    reason = drop_reason(row, config.filters)
    names = ("mp4", "npz", "jpg")
    return {
        # Every output was read with its own copies of the columns' names.
        **{intern(name): value for name, value in row.items()},
        "key": sample_key(chunk.sha256, shot, row["track"], row["start_ms"]),
        "status": "dropped" if reason else "kept",
        "reason": reason or "",
        "source": chunk.source,
        "source_sha256": chunk.sha256,
        "licence": chunk.licence,
        "shot": shot,
        # Positions in the chunk output; the index has those in the shard.
        "in_output": {f"{n}_{w}": row[f"{n}_{w}"] for n in names for w in ("offset", "length")},
    }


def _damage_row(damage: Mapping[str, Any], chunk: Chunk) -> Row:
    """Return a row of the quarantine table; its times count from the source's first frame."""
    times = {n: max(0.0, damage[n] - chunk.origin_us / 1e6) for n in ("start_s", "end_s")}
    return {**damage, **times, "source": chunk.source, "sha256": chunk.sha256}
