"""What a preprocessing job has to do: sources, chunks, and which of them are done."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipelines.preprocess.progress import JobProgress, OnProgress
from pipelines.preprocess.stream import entries_here, stream_entries
from pipelines.preprocess.workers import Workers
from preprocessing.chunk.task import Chunk
from preprocessing.config import PreprocessConfig
from preprocessing.dataset.finalize import plain
from preprocessing.dataset.plan import (
    SourceEntry,
    analysis_digest,
    chunks_of,
    is_unchanged,
    part_name,
    read_entries,
    write_entries,
)
from preprocessing.dataset.quarantine import read_quarantine
from preprocessing.dataset.sources import FoundSources, SourceFile, find_sources
from preprocessing.errors import UserError
from preprocessing.faces import make_detector
from preprocessing.storage.store import Store

# Reasons that another run may not meet again: a slow disk, a neighbour's memory, a disk away.
_WORTH_RETRYING = {
    "timeout", "crash", "memory", "error",
    "missing", "not_a_file", "permission", "empty", "changed",
}  # fmt: skip
# Up to so many new sources are looked into from this process.
_FEW_SOURCES = 200


@dataclass(frozen=True)
class JobPlan:
    """What there is to do."""

    found: FoundSources
    entries: dict[str, SourceEntry]
    # Sources that decode, without those that have the same bytes as another.
    readable: list[SourceFile]
    # Names of sources with the same bytes as another, and that other's.
    same: dict[str, str]
    chunks: list[Chunk]
    parts: list[str]
    # Positions of the chunks whose parts are not there.
    todo: list[int]
    models: dict[str, str]


def make_plan(
    videos: str | os.PathLike[str],
    store: Store,
    config: PreprocessConfig,
    workers: Workers,
    tell: OnProgress,
    *,
    limit: int | None = None,
    retry: bool = False,
    remember: bool = True,
) -> JobPlan:
    """Find sources, look into new ones, cut them into chunks and see which are done.

    Args:
        videos: a folder, a video, a list file or an fsspec URL.
        store: the data set's place.
        config: settings.
        workers: Ray, should there be many new sources.
        tell: is told of each source looked into.
        limit: use only the first so many sources, by name; None for all.
        retry: look again into bad sources, and plan again what failed in a way that may pass.
        remember: write down what was found in new sources.

    Raises:
        UserError: there is no source, or none that can be read.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}", "give 1 or more")
    found = find_sources(videos, config.plan.licence)
    found = replace(found, files=found.files[:limit])
    detect = config.detect
    models = dict(make_detector(detect.name, detect.model_dir).model_sha256)
    entries, changed = _look_into_all(found.files, store, config, workers, tell, retry)
    good = [f for f in found.files if not entries[f.name].reason]
    if not good:
        first = entries[found.files[0].name]
        raise UserError(
            f"none of the {len(found.files)} sources in {videos} can be read "
            f"({first.name}: {first.reason}, {first.detail})",
            "name videos that play",
        )
    if changed and remember:
        write_entries(store, entries.values())
    owner: dict[str, str] = {}
    for file in good:
        owner.setdefault(entries[file.name].sha256, file.name)
    readable = [f for f in good if owner[entries[f.name].sha256] == f.name]
    owners = set(owner.values())
    same = {f.name: owner[entries[f.name].sha256] for f in good if f.name not in owners}
    chunks = [c for f in readable for c in chunks_of(f, entries[f.name], config)]
    analysis = analysis_digest(config, models)
    parts = [part_name(chunk, analysis) for chunk in chunks]
    present = store.list("_work/parts")
    redo = _failed_before(store) if retry else set()
    todo = [
        i
        for i, (c, p) in enumerate(zip(chunks, parts, strict=True))
        if p not in present or c.source in redo
    ]
    return JobPlan(found, entries, readable, same, chunks, parts, todo, models)


def seal_digest(plan: JobPlan, config: PreprocessConfig) -> str:
    """Return the digest of all that decides the finished data set."""
    sources = [
        [f.name, f.licence, plan.entries[f.name].sha256, plan.entries[f.name].reason]
        for f in plan.found.files
    ]
    facts = [sources, sorted(plan.parts), config_digest(config), plan.models]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def config_digest(config: PreprocessConfig) -> str:
    """Return the digest of all settings."""
    settings = plain(config)
    # Where weights lie says nothing about what they are; their checksums do.
    settings["detect"]["model_dir"] = None
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def bad_sources(plan: JobPlan) -> list[dict[str, Any]]:
    """Return the rows of the quarantine table for sources that give nothing."""
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


def video_facts(entry: SourceEntry) -> dict[str, Any]:
    """Return what samples say of their source video."""
    return {
        "fps": entry.fps,
        "variable_rate": entry.variable_rate,
        "width": entry.width,
        "height": entry.height,
        "codec": entry.codec,
        "rotation": entry.rotation,
    }


def _look_into_all(
    files: Sequence[SourceFile],
    store: Store,
    config: PreprocessConfig,
    workers: Workers,
    tell: OnProgress,
    retry: bool,
) -> tuple[dict[str, SourceEntry], bool]:
    """Return an entry a source, remembered where unchanged, and whether any changed."""
    known = read_entries(store)
    if retry:
        known = {name: entry for name, entry in known.items() if not entry.reason}
    entries = {f.name: known[f.name] for f in files if is_unchanged(f, known.get(f.name))}
    new = [file for file in files if file.name not in entries]
    tell(JobProgress("plan", len(entries), len(files)))
    threads = min(max(1, len(new)), workers.wanted or os.cpu_count() or 1)
    looks = (
        entries_here(new, config, threads)
        if len(new) <= _FEW_SOURCES
        else stream_entries(new, config, workers.count())
    )
    for entry in looks:
        entries[entry.name] = entry
        tell(JobProgress("plan", len(entries), len(files)))
    return entries, bool(new) or len(known) != len(entries)


def _failed_before(store: Store) -> set[str]:
    return {
        row["source"]
        for row in read_quarantine(store)
        if row["stage"] != "plan" and row["reason"] in _WORTH_RETRYING
    }
