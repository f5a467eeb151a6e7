"""From parts to a finished data set: names, verdicts, identities, shards, index.

What is published last is the index; until then readers see the data set as it was. Shards carry
their content's digest in their names, so a new one never replaces one that an old index points
into.
"""

import base64
import hashlib
import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from preprocessing.chunk.filters import judge
from preprocessing.chunk.output import read_part, read_part_member
from preprocessing.chunk.task import Chunk
from preprocessing.config import PreprocessConfig
from preprocessing.dataset.duplicates import Signature, find_duplicates
from preprocessing.dataset.identity import assign_identities, assign_splits
from preprocessing.dataset.layout import Placed, plan_shards
from preprocessing.dataset.quarantine import write_quarantine
from preprocessing.storage.index import INDEX_NAME, SCHEMA, SCORES, rows_digest, write_index
from preprocessing.storage.sample import MEMBERS, SCHEMA_VERSION, pack_meta, sample_key
from preprocessing.storage.shard import member_bytes, tar_bytes, write_tar_file
from preprocessing.storage.store import Store, open_store
from preprocessing.storage.unfinished import unfinished_name

DATASET_NAME = "dataset.json"


@dataclass(frozen=True)
class Gathered:
    """All clips of a job, named and judged, before anything is written."""

    # Rows of the index; kept ones also have the place of their members in the parts.
    rows: list[dict[str, Any]]
    # Rows of the quarantine table that the chunks gave.
    damage: list[dict[str, Any]]
    # What each chunk's task said last.
    ends: list[dict[str, Any]]
    # Parts in which a clip that is now to be kept was not encoded, for a threshold was stricter.
    stale: list[str]


def gather(
    store: Store, chunks: Sequence[Chunk], parts: Sequence[str], config: PreprocessConfig
) -> Gathered:
    """Read the parts of all chunks; name every clip and apply the thresholds."""
    rows: list[dict[str, Any]] = []
    damage: list[dict[str, Any]] = []
    ends: list[dict[str, Any]] = []
    stale: list[str] = []
    by_source: dict[str, list[tuple[Chunk, str]]] = {}
    for chunk, part in zip(chunks, parts, strict=True):
        by_source.setdefault(chunk.source, []).append((chunk, part))
    for source in sorted(by_source):
        contents = [(chunk, read_part(store, part)) for chunk, part in by_source[source]]
        cuts = sorted({ms for _, content in contents for ms in content["end"]["cuts_ms"]})
        for chunk, content in contents:
            ends.append({**content["end"], "source": source, "source_s": chunk.seconds})
            damage += [_told(d, chunk) for d in content["damage"]]
            own = [_named(row, chunk, cuts, config) for row in content["rows"]]
            stale += [r["part"] for r in own if r["status"] == "kept" and not r["mp4_length"]]
            rows += own
    return Gathered(_without_overlaps(rows), damage, ends, sorted(set(stale)))


def finish(
    store: Store,
    gathered: Gathered,
    quarantine: Sequence[Mapping[str, Any]],
    config: PreprocessConfig,
    facts: Mapping[str, Any],
    each: Callable[[Sequence["ShardJob"]], Iterable["ShardDone"]] | None = None,
) -> list[dict[str, Any]]:
    """Write shards, quarantine, index and dataset.json; return the index's rows and more columns.

    Args:
        store: where the parts are and the data set is to be.
        gathered: the job's clips.
        quarantine: rows of the quarantine table.
        config: settings; written into every sample.
        facts: `models` (checksums by role), `config_sha256`, `sealed_from` (digest of all inputs),
            `videos` (what is known of each source, by name), `sources` (checksums by name) and
            `same` (names of sources with the bytes of another, with that other's name).
        each: runs `write_shard` over jobs, perhaps on other machines; None for here and now.
    """
    rows = sorted([*gathered.rows, *_same_files(facts)], key=lambda row: row["key"])
    _drop_duplicates(rows, config)
    kept = [row for row in rows if row["status"] == "kept"]
    descriptors = {p: d for p, row in enumerate(rows) if len(d := _descriptor(row))}
    assign_identities(rows, descriptors, config.shard.identity_likeness)
    assign_splits(rows, config.shard)
    common = _common_meta(config, facts)
    placed = []
    for row in kept:
        meta = pack_meta(_meta(row, common))
        row["json_length"] = len(meta)
        row["json_sha256"] = hashlib.sha256(meta).hexdigest()
        size = sum(member_bytes(row[f"{name}_length"]) for name in MEMBERS)
        digest = row["mp4_sha256"] + row["npz_sha256"] + row["json_sha256"]
        placed.append(Placed(row["key"], size, digest))
    by_key = {row["key"]: row for row in kept}
    present = store.list("shards")
    jobs = []
    for plan in plan_shards(placed, config.shard.size_mb * 2**20):
        path = f"shards/{plan.name}"
        members = [by_key[key] for key in plan.keys]
        _set_offsets(plan.name, members)
        # A shard that is there and cut short, by a copy that broke off, say, is written anew.
        if present.get(path) != tar_bytes(_lengths(members)):
            jobs.append(ShardJob(store.url, plan.name, tuple(members), common))
    for _ in (each or _here)(jobs):
        pass
    write_quarantine(store, quarantine)
    table = [{name: row.get(name) for name in SCHEMA.names} for row in rows]
    write_index(store, table)
    _write_dataset(store, table, config, facts)
    used = {f"shards/{row['shard']}" for row in kept}
    for path in present:
        if path not in used:
            store.delete(path)
    return rows


def shard_sizes(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return how many bytes each shard that the rows of an index speak of has, by its path."""
    lengths: dict[str, list[int]] = {}
    for row in rows:
        if row["status"] == "kept":
            lengths.setdefault(f"shards/{row['shard']}", []).extend(_lengths([row]))
    return {path: tar_bytes(sizes) for path, sizes in lengths.items()}


def _lengths(rows: Iterable[Mapping[str, Any]]) -> list[int]:
    return [row[f"{name}_length"] for row in rows for name in MEMBERS]


@dataclass(frozen=True)
class ShardJob:
    """Everything needed to write one shard anywhere."""

    store_url: str
    name: str
    # Rows of the index, with the places of their members in the parts.
    rows: tuple[dict[str, Any], ...]
    # What all JSON members share.
    common: Mapping[str, Any]


@dataclass(frozen=True)
class ShardDone:
    """A shard that has been published."""

    name: str
    bytes: int


def write_shard(job: ShardJob) -> ShardDone:
    """Copy a shard's members out of the parts into one tar and publish it.

    Raises OSError where a part does not hold what its row says.
    """
    store = open_store(job.store_url)
    local = store.scratch() / unfinished_name()
    try:
        ranges = write_tar_file(local, _members(store, job))
        size = local.stat().st_size
        store.publish(local, f"shards/{job.name}")
    finally:
        local.unlink(missing_ok=True)
    return ShardDone(job.name, size if ranges else 0)


def _here(jobs: Sequence[ShardJob]) -> Iterable[ShardDone]:
    return [write_shard(job) for job in jobs]


def _members(store: Store, job: ShardJob) -> Iterable[tuple[str, bytes]]:
    for row in job.rows:
        for name in MEMBERS:
            if name == "json":
                data = pack_meta(_meta(row, job.common))
            else:
                place = {**row, **row["in_part"]}
                data = read_part_member(store, place, name)
            if hashlib.sha256(data).hexdigest() != row[f"{name}_sha256"]:
                raise OSError(f"{row['part']} is damaged at {row['key']}.{name}")
            yield f"{row['key']}.{name}", data


def _set_offsets(shard: str, rows: Sequence[dict[str, Any]]) -> None:
    """Work out where members will lie, so that the index need not wait for the shard."""
    position = 0
    for row in rows:
        row["shard"] = shard
        for name in MEMBERS:
            row[f"{name}_offset"] = position + 512
            position += member_bytes(row[f"{name}_length"])


def _named(
    row: dict[str, Any], chunk: Chunk, cuts_ms: Sequence[int], config: PreprocessConfig
) -> dict[str, Any]:
    """Return a part's row with its final name, source and verdict."""
    shot = max(0, bisect_right(cuts_ms, row["start_ms"]) - 1)
    reason = "too_short" if row["reason"] == "too_short" else judge(row, config.filters)
    names = ("mp4", "npz", "jpg")
    return {
        **row,
        "key": sample_key(chunk.sha256, shot, row["track"], row["start_ms"]),
        "status": "dropped" if reason else "kept",
        "reason": reason or "",
        "source": chunk.source,
        "source_sha256": chunk.sha256,
        "licence": chunk.licence,
        "shot": shot,
        # The places in the part; the index has those in the shard.
        "in_part": {f"{n}_{w}": row[f"{n}_{w}"] for n in names for w in ("offset", "length")},
    }


def _told(damage: Mapping[str, Any], chunk: Chunk) -> dict[str, Any]:
    """Return a row of the quarantine table, its times counted as those of clips are."""
    times = {n: max(0.0, damage[n] - chunk.origin_us / 1e6) for n in ("start_s", "end_s")}
    return {**damage, **times, "source": chunk.source, "sha256": chunk.sha256}


def _same_files(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each source whose bytes are another's; it has no clips of its own."""
    rows = []
    for name, other in facts["same"].items():
        key = sample_key(f"file {name}", 0, 0, 0)
        row: dict[str, Any] = dict.fromkeys(SCHEMA.names)
        row |= {"key": key, "status": "dropped", "reason": "same_file", "source": name}
        row |= {"source_sha256": facts["sources"][name], "duplicate_of": other}
        rows.append(row)
    return rows


def _without_overlaps(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Drop what two chunks both cut out of the stretch they share, should that happen."""
    seen: dict[str, dict[str, Any]] = {}
    for row in rows:
        seen.setdefault(row["key"], row)
    return sorted(seen.values(), key=lambda row: row["key"])


def _drop_duplicates(rows: Sequence[dict[str, Any]], config: PreprocessConfig) -> None:
    """Drop all but the largest of the clips that are copies of each other."""
    kept = {row["key"]: row for row in rows if row["status"] == "kept"}
    copies = find_duplicates(
        {k: Signature.from_bytes(base64.b64decode(row["signature"])) for k, row in kept.items()},
        {key: (row["tube_px"], row["frames"]) for key, row in kept.items()},
        {key: row["source_sha256"] for key, row in kept.items()},
        config.shard.duplicate_likeness,
    )
    for key, original in copies.items():
        kept[key] |= {"status": "dropped", "reason": "duplicate", "duplicate_of": original}


def _descriptor(row: Mapping[str, Any]) -> np.ndarray:
    if row["status"] != "kept":
        return np.zeros(0, np.float32)
    stored = np.frombuffer(base64.b64decode(row.get("descriptor", "")), np.float16)
    return stored.astype(np.float32)


def _common_meta(config: PreprocessConfig, facts: Mapping[str, Any]) -> dict[str, Any]:
    settings = plain(config)
    return {
        "schema": SCHEMA_VERSION,
        "models": facts["models"],
        "config_sha256": facts["config_sha256"],
        "thresholds": settings["filters"],
        "videos": {},
        **{name: facts[name] for name in ("videos",) if name in facts},
    }


def _meta(row: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    video = common["videos"].get(row["source"], {})
    return {
        **{name: value for name, value in common.items() if name != "videos"},
        "key": row["key"],
        "source": {
            "name": row["source"],
            "sha256": row["source_sha256"],
            "licence": row["licence"],
            **video,
        },
        "shot": row["shot"],
        "track": row["track"],
        "start_ms": row["start_ms"],
        "end_ms": row["end_ms"],
        "frames": row["frames"],
        "fps": row["fps"],
        "size": row["size"],
        "tube_px": row["tube_px"],
        "scores": {name: row[name] for name in SCORES},
        "verdict": row["status"],
        "identity": row["identity"],
        "split": row["split"],
    }


def plain(config: Any) -> dict[str, Any]:
    """Return a config as JSON would hold it."""
    data: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return data


def _write_dataset(
    store: Store,
    table: Sequence[Mapping[str, Any]],
    config: PreprocessConfig,
    facts: Mapping[str, Any],
) -> None:
    content = {
        "schema": SCHEMA_VERSION,
        "config": plain(config),
        "config_sha256": facts["config_sha256"],
        "models": facts["models"],
        "index": INDEX_NAME,
        "index_digest": rows_digest(table),
        "shards": sorted({str(row["shard"]) for row in table if row["status"] == "kept"}),
        "samples": sum(row["status"] == "kept" for row in table),
        "sealed_from": facts["sealed_from"],
    }
    text = json.dumps(content, sort_keys=True, indent=1)
    store.write_atomic(DATASET_NAME, text.encode())
