"""The plan of a job: its chunks, and which of them have no valid output yet."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from preprocessing.chunk.filters import drop_reason
from preprocessing.chunk.output import read_outputs
from preprocessing.chunk.records import Chunk
from preprocessing.config import PreprocessConfig
from preprocessing.dataset.chunking import OUTPUTS, analysis_digest, chunks_of, output_name
from preprocessing.dataset.entries import SourceEntry
from preprocessing.dataset.quarantine import read_quarantine
from preprocessing.dataset.shards import shard_sizes
from preprocessing.dataset.sources import FoundSources, SourceFile
from preprocessing.storage.index import DATASET_NAME, INDEX_NAME, iter_rows, read_table
from preprocessing.storage.store import Store

# Reasons that another run may not meet again: a slow disk, memory taken by others, a disk away.
_TRANSIENT = {
    "timeout", "crash", "memory", "error",
    "missing", "not_a_file", "permission", "empty", "changed",
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """All that a job has to do, decided before anything is written."""

    found: FoundSources
    # Result of probing each found source, by name.
    entries: dict[str, SourceEntry]
    # Sources that decode, without those that have the same bytes as another.
    readable: list[SourceFile]
    # Names of sources with the same bytes as another, and that other's.
    same: dict[str, str]
    # Chunks, and the name of the output of each.
    chunks: list[Chunk]
    outputs: list[str]
    # Positions of the chunks to process.
    todo: list[int]
    # Checksums of the detector's weights, by role.
    models: dict[str, str]
    # Digest of all that decides the finished data set.
    digest: str
    # The index where the data set is finished and current, else None.
    current: pa.Table | None

    @property
    def seconds(self) -> float:
        """Length of all chunks in seconds."""
        return sum(chunk.seconds for chunk in self.chunks)

    @property
    def todo_seconds(self) -> float:
        """Length of the chunks to process in seconds."""
        return sum(self.chunks[i].seconds for i in self.todo)

    def undivided(self, chunk_s: float) -> list[str]:
        """Return a line for each chunk to process that is much longer than `chunk_s`.

        Its source has no key frame to cut it at, and one core is busy with it while others wait.
        """
        return [
            f"{chunk.source} has no key frame for {chunk.seconds / 60:,.0f} min, which one core"
            " processes alone; encode it again with a key frame every few seconds (ffmpeg -g 250)"
            for chunk in (self.chunks[i] for i in self.todo)
            if chunk.seconds > 2 * chunk_s
        ]


def make_plan(
    found: FoundSources,
    entries: Mapping[str, SourceEntry],
    store: Store,
    config: PreprocessConfig,
    models: Mapping[str, str],
    *,
    retry_quarantine: bool = False,
) -> Plan:
    """Cut readable sources into chunks and find those without a valid output.

    Args:
        found: the job's sources.
        entries: the result of probing each, by name.
        store: where the data set is.
        config: settings.
        models: checksums of the detector's weights, by role.
        retry_quarantine: process again the chunks of sources whose failure may be transient.
    """
    good = [f for f in found.files if not entries[f.name].reason]
    owner: dict[str, str] = {}
    for file in good:
        owner.setdefault(entries[file.name].sha256, file.name)
    readable = [f for f in good if owner[entries[f.name].sha256] == f.name]
    same = {f.name: o for f in good if (o := owner[entries[f.name].sha256]) != f.name}
    chunks = [c for f in readable for c in chunks_of(f, entries[f.name], config)]
    analysis = analysis_digest(config, models)
    outputs = [output_name(chunk, analysis) for chunk in chunks]
    digest = _digest(found, entries, outputs, config, models)
    present = store.list(OUTPUTS)
    redo = _failed_before(store) if retry_quarantine else set()
    todo = {i for i, c in enumerate(chunks) if outputs[i] not in present or c.source in redo}
    current = None if todo else _current_index(store, digest)
    if current is None:
        todo |= _without_wanted_clips(store, outputs, todo, config)
    return Plan(
        found=found,
        entries=dict(entries),
        readable=readable,
        same=same,
        chunks=chunks,
        outputs=outputs,
        todo=sorted(todo),
        models=dict(models),
        digest=digest,
        current=current,
    )


def plain(config: Any) -> dict[str, Any]:
    """Return a config as JSON holds it."""
    data: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return data


def config_digest(config: PreprocessConfig) -> str:
    """Return the digest of all settings."""
    settings = plain(config)
    # The checksums of weights identify them; the folder they lie in does not.
    settings["detect"]["model_dir"] = None
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _digest(
    found: FoundSources,
    entries: Mapping[str, SourceEntry],
    outputs: list[str],
    config: PreprocessConfig,
    models: Mapping[str, str],
) -> str:
    sources = [
        [f.name, f.licence, entries[f.name].sha256, entries[f.name].reason] for f in found.files
    ]
    facts = [sources, sorted(outputs), config_digest(config), dict(models)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _current_index(store: Store, digest: str) -> pa.Table | None:
    """Return the index of the finished data set, or None where it is not that of this plan."""
    if not (store.exists(DATASET_NAME) and store.exists(INDEX_NAME)):
        return None
    if json.loads(store.read(DATASET_NAME)).get("plan_digest") != digest:
        return None
    index = read_table(store.url)
    return index if store.list("shards") == shard_sizes(iter_rows(index)) else None


def _without_wanted_clips(
    store: Store, outputs: list[str], todo: set[int], config: PreprocessConfig
) -> set[int]:
    """Return the positions of outputs without a clip that the thresholds now keep.

    A dropped clip is not encoded. Where a threshold was loosened since, its chunk is processed
    again.
    """
    done = [i for i in range(len(outputs)) if i not in todo]
    heads = read_outputs(store, [outputs[i] for i in done])
    return {
        i
        for i, head in zip(done, heads, strict=True)
        if any(not row["mp4_length"] and not drop_reason(row, config.filters) for row in head.rows)
    }


def _failed_before(store: Store) -> set[str]:
    return {
        row["source"]
        for row in read_quarantine(store)
        if row["stage"] != "plan" and row["reason"] in _TRANSIENT
    }
