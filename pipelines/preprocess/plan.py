"""Stage 1, plan: find the sources, probe new ones, and decide which chunks to process."""

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import asdict, replace
from queue import SimpleQueue
from typing import Any

from pipelines.preprocess.context import JobContext
from pipelines.preprocess.progress import JobProgress
from preprocessing.config import PreprocessConfig
from preprocessing.dataset.entries import (
    SourceEntry,
    probe_source,
    read_entries,
    write_entries,
)
from preprocessing.dataset.plan import Plan, make_plan
from preprocessing.dataset.sources import FoundSources, SourceFile, find_sources
from preprocessing.decode import require_backend
from preprocessing.errors import UserError
from preprocessing.faces import make_detector
from preprocessing.sandbox.isolate import Isolated

# Up to this many new sources are probed in this process.
_FEW_SOURCES = 200


def plan_job(
    videos: str | os.PathLike[str],
    job: JobContext,
    *,
    limit: int | None = None,
    retry_quarantine: bool = False,
    remember: bool = True,
) -> Plan:
    """Find and probe the sources, and plan their chunks.

    Args:
        videos: a folder, a video, a list file or an fsspec URL.
        job: store, settings, Ray and progress.
        limit: use only the first sources, this many, sorted by name; None for all.
        retry_quarantine: probe unreadable sources again, and process again the chunks of sources
            whose failure may be transient.
        remember: store the results of probing for the next run.

    Raises:
        UserError: there is no source, or none that can be read.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}", "give 1 or more")
    all_found = find_sources(videos, job.config.plan.licence)
    found = replace(all_found, files=all_found.files[:limit])
    require_backend(job.config.decode.backend)
    detect = job.config.detect
    models = dict(make_detector(detect.name, detect.model_dir).model_sha256)
    known = read_entries(job.store)
    valid = {n: e for n, e in known.items() if not (retry_quarantine and e.reason)}
    entries = _probe_new(found, valid, job)
    if all(entry.reason for entry in entries.values()):
        first = entries[found.files[0].name]
        raise UserError(
            f"none of the {len(found.files)} sources in {videos} can be read "
            f"({first.name}: {first.reason}, {first.detail})",
            "name videos that play",
        )
    # Sources beyond the limit stay known; those that are gone do not.
    kept = {f.name: valid[f.name] for f in all_found.files if f.name in valid} | entries
    if remember and kept != known:
        write_entries(job.store, kept.values())
    return make_plan(
        found, entries, job.store, job.config, models, retry_quarantine=retry_quarantine
    )


def _probe_new(
    found: FoundSources, known: dict[str, SourceEntry], job: JobContext
) -> dict[str, SourceEntry]:
    """Return the entry of each source: known where the file is unchanged, else new."""
    files = found.files
    entries = {f.name: known[f.name] for f in files if f.name in known and known[f.name].is_of(f)}
    new = [file for file in files if file.name not in entries]
    job.notify(JobProgress("plan", len(entries), len(files)))
    if len(new) <= _FEW_SOURCES:
        threads = min(max(1, len(new)), job.workers.wanted or os.cpu_count() or 1)
        probed = _probe_here(new, job.config, threads)
    else:
        probed = _probe_on_ray(new, job.config, job.workers.connect())
    for entry in probed:
        entries[entry.name] = entry
        job.notify(JobProgress("plan", len(entries), len(files)))
    return entries


def _probe_here(
    files: Sequence[SourceFile], config: PreprocessConfig, threads: int
) -> Iterator[SourceEntry]:
    """Probe sources from threads of this process, each with its own sandboxed process.

    For a few files this is faster than starting Ray workers.
    """
    with ExitStack() as stack:
        free: SimpleQueue[Isolated] = SimpleQueue()
        for _ in range(threads):
            free.put(stack.enter_context(Isolated()))

        def probe(file: SourceFile) -> SourceEntry:
            child = free.get()
            try:
                return probe_source(file, config, child)
            finally:
                free.put(child)

        pool = stack.enter_context(ThreadPoolExecutor(threads, thread_name_prefix="probe"))
        for done in as_completed([pool.submit(probe, file) for file in files]):
            yield done.result()


def _probe_on_ray(
    files: Sequence[SourceFile], config: PreprocessConfig, workers: int
) -> Iterator[SourceEntry]:
    """Probe sources on all workers; yield entries as they are ready."""
    import ray.data

    items = [{"file": json.dumps(asdict(file))} for file in files]
    # A task per few sources: enough to spread, few enough to schedule ten thousand at once.
    blocks = min(len(items), max(workers * 8, len(items) // 64))

    def probe(row: dict[str, Any]) -> dict[str, Any]:
        file = SourceFile(**json.loads(row["file"]))
        return {"entry": json.dumps(asdict(probe_source(file, config)))}

    entries = ray.data.from_items(items, override_num_blocks=blocks).map(probe, num_cpus=1)
    for row in entries.iter_rows():
        content = json.loads(row["entry"])
        for name in ("key_us", "key_index"):
            content[name] = tuple(content[name])
        yield SourceEntry(**content)
