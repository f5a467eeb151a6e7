"""From chunk outputs to a finished data set: duplicates, identities, splits, shards, index.

The index is published after the shards and before old shards are removed; until then readers see
the data set as it was.
"""

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from preprocessing.chunk.records import Row
from preprocessing.chunk.signature import Signature
from preprocessing.config import PreprocessConfig
from preprocessing.dataset.duplicates import find_duplicates
from preprocessing.dataset.gather import ChunkSummary, gather
from preprocessing.dataset.identity import assign_identities, assign_splits
from preprocessing.dataset.plan import Plan, config_digest, plain
from preprocessing.dataset.quarantine import write_quarantine
from preprocessing.dataset.shards import ShardJob, assign_shards, write_shard
from preprocessing.storage.index import DATASET_NAME, INDEX_NAME, SCHEMA, rows_digest, write_index
from preprocessing.storage.sample import SCHEMA_VERSION, sample_key
from preprocessing.storage.store import Store


@dataclass(frozen=True)
class Dataset:
    """A finished data set."""

    # Rows of the index and more columns, sorted by key.
    rows: list[Row]
    # Rows of the quarantine table.
    quarantine: list[Row]
    chunks: list[ChunkSummary]


def write_shards_here(jobs: Sequence[ShardJob]) -> None:
    """Write shards one after the other in this process."""
    for job in jobs:
        write_shard(job)


def finalize(
    plan: Plan,
    store: Store,
    config: PreprocessConfig,
    write_shards: Callable[[Sequence[ShardJob]], None] = write_shards_here,
) -> Dataset:
    """Gather all chunk outputs and write shards, quarantine, index and dataset.json.

    Args:
        plan: the plan; every chunk of it has an output.
        store: where the chunk outputs are and the data set is written.
        config: settings; thresholds are written into every sample.
        write_shards: runs `write_shard` over jobs, perhaps on other machines.

    Raises:
        OSError: the store cannot be read or written.
    """
    gathered = gather(store, plan.chunks, plan.outputs, config)
    quarantine = [*_unreadable(plan), *gathered.damage]
    rows = sorted([*gathered.rows, *_same_files(plan)], key=lambda row: row["key"])
    _drop_duplicates(rows, config)
    assign_identities(rows, _descriptors(rows), config.shard.identity_likeness)
    for row in rows:
        # The largest values of a row, and used no more.
        row.pop("signature", None)
        row.pop("descriptor", None)
    assign_splits(rows, config.shard)
    kept = [row for row in rows if row["status"] == "kept"]
    jobs = assign_shards(kept, store.url, config.shard, _common_meta(plan, config))
    present = store.list("shards")
    # A shard that exists with another size, after an interrupted copy for example, is rewritten.
    write_shards([job for job in jobs if present.get(job.path) != job.bytes])
    write_quarantine(store, quarantine)
    write_index(store, rows)
    _write_dataset(store, rows, plan, config)
    for path in present.keys() - {job.path for job in jobs}:
        store.delete(path)
    return Dataset(rows, quarantine, gathered.chunks)


def _unreadable(plan: Plan) -> list[Row]:
    """Return the rows of the quarantine table for sources that cannot be read."""
    entries = [plan.entries[file.name] for file in plan.found.files]
    return [
        {
            "source": entry.name,
            "sha256": entry.sha256,
            "stage": "plan",
            "reason": entry.reason,
            "detail": entry.detail,
            "start_s": None,
            "end_s": None,
        }
        for entry in entries
        if entry.reason
    ]


def _same_files(plan: Plan) -> list[Row]:
    """Return a row for each source whose bytes are another's; it has no clips of its own."""
    rows = []
    for name, other in plan.same.items():
        row: Row = dict.fromkeys(SCHEMA.names)
        row |= {"key": sample_key(f"file {name}", 0, 0, 0), "status": "dropped", "source": name}
        row |= {"reason": "same_file", "duplicate_of": other}
        rows.append(row | {"source_sha256": plan.entries[name].sha256})
    return rows


def _drop_duplicates(rows: Sequence[Row], config: PreprocessConfig) -> None:
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


def _descriptors(rows: Sequence[Row]) -> dict[int, np.ndarray]:
    """Return the face descriptors of kept clips by position; none where no recogniser ran."""
    stored = {
        position: np.frombuffer(base64.b64decode(row.get("descriptor", "")), np.float16)
        for position, row in enumerate(rows)
        if row["status"] == "kept"
    }
    return {position: d.astype(np.float32) for position, d in stored.items() if len(d)}


def _common_meta(plan: Plan, config: PreprocessConfig) -> dict[str, Any]:
    """Return what the JSON members of all samples share, and facts of each source video."""
    facts = ("fps", "variable_rate", "width", "height", "codec", "rotation")
    return {
        "schema": SCHEMA_VERSION,
        "models": plan.models,
        "config_sha256": config_digest(config),
        "thresholds": plain(config)["filters"],
        "videos": {
            f.name: {fact: getattr(plan.entries[f.name], fact) for fact in facts}
            for f in plan.readable
        },
    }


def _write_dataset(store: Store, rows: Sequence[Row], plan: Plan, config: PreprocessConfig) -> None:
    content = {
        "schema": SCHEMA_VERSION,
        "config": plain(config),
        "config_sha256": config_digest(config),
        "models": plan.models,
        "index": INDEX_NAME,
        "index_digest": rows_digest(rows),
        "shards": sorted({str(row["shard"]) for row in rows if row["status"] == "kept"}),
        "samples": sum(row["status"] == "kept" for row in rows),
        "plan_digest": plan.digest,
    }
    store.write_atomic(DATASET_NAME, json.dumps(content, sort_keys=True, indent=1).encode())
