"""Writes shards out of chunk outputs, here or on any worker.

Shards carry the digest of their content in their names, so a new one never replaces one that an
old index refers to.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from preprocessing.chunk.output import read_output_member
from preprocessing.chunk.records import Row
from preprocessing.config import ShardConfig
from preprocessing.dataset.layout import Placed, plan_shards
from preprocessing.storage.index import SCORES
from preprocessing.storage.sample import MEMBERS, pack_meta
from preprocessing.storage.shard import (
    END_BYTES,
    HEADER_BYTES,
    member_bytes,
    tar_bytes,
    write_tar_file,
)
from preprocessing.storage.store import Store, open_store
from preprocessing.storage.unfinished import unfinished_name


@dataclass(frozen=True)
class ShardJob:
    """Everything needed to write one shard on any worker."""

    store_url: str
    name: str
    # Rows of the index, with the position of their members in the chunk outputs.
    rows: tuple[Row, ...]
    # What all JSON members share; see `sample_meta`.
    common: Mapping[str, Any]

    @property
    def path(self) -> str:
        """Name of the shard in the store."""
        return f"shards/{self.name}"

    @property
    def bytes(self) -> int:
        """Size of the tar in bytes."""
        return tar_bytes(_lengths(self.rows))


def assign_shards(
    kept: Sequence[Row], store_url: str, config: ShardConfig, common: Mapping[str, Any]
) -> list[ShardJob]:
    """Return the shards of a data set; set the shard and member columns of the rows.

    Positions follow from names and sizes, so the index does not wait for the shards.

    Args:
        kept: rows of the kept clips.
        store_url: where the data set is.
        config: largest size and least number of shards.
        common: what all JSON members share; see `sample_meta`.
    """
    placed = []
    for row in kept:
        meta = pack_meta(sample_meta(row, common))
        row["json_length"] = len(meta)
        row["json_sha256"] = hashlib.sha256(meta).hexdigest()
        size = sum(member_bytes(row[f"{name}_length"]) for name in MEMBERS)
        digest = row["mp4_sha256"] + row["npz_sha256"] + row["json_sha256"]
        placed.append(Placed(row["key"], size, digest))
    by_key = {row["key"]: row for row in kept}
    jobs = []
    for plan in plan_shards(placed, config.size_mb * 2**20, config.min_count):
        rows = tuple(by_key[key] for key in plan.keys)
        position = 0
        for row in rows:
            row["shard"] = plan.name
            for name in MEMBERS:
                row[f"{name}_offset"] = position + HEADER_BYTES
                position += member_bytes(row[f"{name}_length"])
        jobs.append(ShardJob(store_url, plan.name, rows, common))
    return jobs


def write_shard(job: ShardJob) -> str:
    """Copy a shard's members out of the chunk outputs, publish the tar and return its name.

    Raises:
        OSError: a chunk output does not hold what its row says, or the shard cannot be written.
    """
    store = open_store(job.store_url)
    local = store.scratch() / unfinished_name()
    try:
        write_tar_file(local, _members(store, job))
        store.publish(local, job.path)
    finally:
        local.unlink(missing_ok=True)
    return job.name


def shard_sizes(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return the size in bytes of each shard in the rows of an index, by its path."""
    sizes: dict[str, int] = {}
    for row in rows:
        if row["status"] == "kept":
            path = f"shards/{row['shard']}"
            members = sum(map(member_bytes, _lengths([row])))
            sizes[path] = sizes.get(path, END_BYTES) + members
    return sizes


def sample_meta(row: Mapping[str, Any], common: Mapping[str, Any]) -> Row:
    """Return the JSON member of a sample.

    Args:
        row: its row of the index.
        common: what all samples share, and `videos`: facts of each source by name.
    """
    return {
        **{name: value for name, value in common.items() if name != "videos"},
        "key": row["key"],
        "source": {
            "name": row["source"],
            "sha256": row["source_sha256"],
            "licence": row["licence"],
            **common["videos"].get(row["source"], {}),
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
        "status": row["status"],
        "identity": row["identity"],
        "split": row["split"],
        **({"truth": row["truth"]} if row.get("truth") else {}),
    }


def _members(store: Store, job: ShardJob) -> Iterator[tuple[str, bytes]]:
    for row in job.rows:
        for name in MEMBERS:
            if name == "json":
                data = pack_meta(sample_meta(row, job.common))
            else:
                data = read_output_member(store, {**row, **row["in_output"]}, name)
            if hashlib.sha256(data).hexdigest() != row[f"{name}_sha256"]:
                raise OSError(f"{row['output']} is damaged at {row['key']}.{name}")
            yield f"{row['key']}.{name}", data


def _lengths(rows: Iterable[Mapping[str, Any]]) -> list[int]:
    return [row[f"{name}_length"] for row in rows for name in MEMBERS]
