"""Runs a planned preprocessing job: chunks into parts, parts into the data set."""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from pipelines.preprocess.plan import JobPlan, bad_sources, config_digest, seal_digest, video_facts
from pipelines.preprocess.progress import JobProgress, OnProgress
from pipelines.preprocess.result import PreprocessResult
from pipelines.preprocess.stream import stream_chunks, stream_shards
from pipelines.preprocess.workers import Workers
from preprocessing.config import PreprocessConfig
from preprocessing.dataset.finalize import (
    DATASET_NAME,
    Gathered,
    ShardDone,
    ShardJob,
    finish,
    gather,
    shard_sizes,
    write_shard,
)
from preprocessing.dataset.plan import write_plan
from preprocessing.dataset.quarantine import read_quarantine
from preprocessing.errors import UserError
from preprocessing.report.write import write_report
from preprocessing.storage.index import INDEX_NAME, read_table
from preprocessing.storage.store import Store, StoreFullError

# Up to so many bytes of shards are written by this process.
_FEW_BYTES = 2**28


def run_job(
    plan: JobPlan,
    store: Store,
    config: PreprocessConfig,
    workers: Workers,
    tell: OnProgress,
    *,
    began: float,
    strict: bool,
) -> PreprocessResult:
    """Process what is not done, and seal all of it into the data set.

    Args:
        plan: what there is to do.
        store: the data set's place.
        config: settings.
        workers: Ray.
        tell: is told how the job goes.
        began: when it began, by `time.monotonic`.
        strict: anything in quarantine makes the result's exit code 1.

    Raises:
        UserError: the place to write to is full or refuses.
    """
    sealed_from = seal_digest(plan, config)
    sealed = None if plan.todo else _sealed(store, sealed_from)
    if sealed is not None:
        tell(JobProgress("done", 1, 1))
        return _result(plan, store, sealed, began, strict, is_new=False)
    with _told_in_words(store):
        store.sweep()
        write_plan(store, plan.chunks, plan.parts)
        _process(plan, plan.todo, store, config, workers, tell)
        gathered = gather(store, plan.chunks, plan.parts, config)
        if gathered.stale:
            # A threshold was loosened: clips that were dropped unencoded are wanted now.
            again = [i for i, part in enumerate(plan.parts) if part in set(gathered.stale)]
            _process(plan, again, store, config, workers, tell)
            plan = replace(plan, todo=[*plan.todo, *again])
            gathered = gather(store, plan.chunks, plan.parts, config)
        rows = _seal(plan, gathered, sealed_from, store, config, workers, tell, began)
    return _result(plan, store, rows, began, strict, is_new=True)


def _process(
    plan: JobPlan,
    positions: Sequence[int],
    store: Store,
    config: PreprocessConfig,
    workers: Workers,
    tell: OnProgress,
) -> None:
    if not positions:
        return
    todo = [(plan.chunks[i], plan.parts[i]) for i in positions]
    total_s = sum(chunk.seconds for chunk in plan.chunks)
    done_s = total_s - sum(chunk.seconds for chunk, _ in todo)
    kept = clips = bad = 0
    tell(JobProgress("process", done_s, total_s))
    for record in stream_chunks(todo, config, store.url, workers.count()):
        if record["status"] != "done":
            raise _cannot_write(store, record["status"], record["detail"])
        done_s += record["seconds"]
        kept, clips = kept + record["kept"], clips + record["clips"]
        bad += record["damage"]
        tell(JobProgress("process", done_s, total_s, kept, clips, bad))


def _seal(
    plan: JobPlan,
    gathered: Gathered,
    sealed_from: str,
    store: Store,
    config: PreprocessConfig,
    workers: Workers,
    tell: OnProgress,
    began: float,
) -> list[dict[str, Any]]:
    quarantine = [*bad_sources(plan), *gathered.damage]
    facts = {
        "models": plan.models,
        "config_sha256": config_digest(config),
        "sealed_from": sealed_from,
        "videos": {f.name: video_facts(plan.entries[f.name]) for f in plan.readable},
        "same": plan.same,
        "sources": {f.name: plan.entries[f.name].sha256 for f in plan.found.files},
    }
    rows = finish(
        store, gathered, quarantine, config, facts, lambda jobs: _write_shards(jobs, workers, tell)
    )
    about_run = {
        "sources": len(plan.found.files),
        "readable": len(plan.readable) + len(plan.same),
        "ignored": plan.found.ignored,
        "seconds": time.monotonic() - began,
        "processed_s": sum(plan.chunks[i].seconds for i in plan.todo),
        "workers": workers.used,
    }
    write_report(store, rows, quarantine, gathered.ends, config, about_run)
    # A worker that outlived a killed driver may have begun to write since this job began.
    store.sweep()
    tell(JobProgress("done", 1, 1, _kept(rows), len(rows), len(quarantine)))
    return rows


def _write_shards(
    jobs: Sequence[ShardJob], workers: Workers, tell: OnProgress
) -> Iterable[ShardDone]:
    if not jobs:
        return
    tell(JobProgress("seal", 0, len(jobs)))
    size = sum(row["mp4_length"] for job in jobs for row in job.rows)
    here = len(jobs) == 1 or size < _FEW_BYTES
    writing = map(write_shard, jobs) if here else stream_shards(jobs, workers.count())
    for number, done in enumerate(writing, start=1):
        tell(JobProgress("seal", number, len(jobs)))
        yield done


def _sealed(store: Store, sealed_from: str) -> list[dict[str, Any]] | None:
    """Return the rows of the finished data set, or None where there is none of these inputs."""
    if not (store.exists(DATASET_NAME) and store.exists(INDEX_NAME)):
        return None
    content = json.loads(store.read(DATASET_NAME))
    if content.get("sealed_from") != sealed_from:
        return None
    rows: list[dict[str, Any]] = read_table(store.url).to_pylist()
    return rows if store.list("shards") == shard_sizes(rows) else None


def _result(
    plan: JobPlan,
    store: Store,
    rows: Sequence[dict[str, Any]],
    began: float,
    strict: bool,
    *,
    is_new: bool,
) -> PreprocessResult:
    kept = [row for row in rows if row["status"] == "kept"]
    return PreprocessResult(
        out=store.url,
        sources=len(plan.found.files),
        bad_sources=len(plan.found.files) - len(plan.readable) - len(plan.same),
        chunks=len(plan.chunks),
        processed=len(plan.todo),
        clips=len(rows),
        kept=len(kept),
        kept_s=float(sum(row["duration_s"] for row in kept)),
        shards=len({row["shard"] for row in kept}),
        bytes=sum(row[f"{m}_length"] for row in kept for m in ("mp4", "npz", "json")),
        quarantined=len(read_quarantine(store)),
        seconds=time.monotonic() - began,
        is_new=is_new,
        strict=strict,
    )


def _kept(rows: Sequence[dict[str, Any]]) -> int:
    return sum(row["status"] == "kept" for row in rows)


def _cannot_write(store: Store, status: str, detail: str) -> UserError:
    if status == "full":
        return UserError(
            f"no space is left in {store.url}; what is finished is kept",
            "free some space and run the same command: it goes on where it stopped",
        )
    return UserError(
        f"cannot write to {store.url}: {detail}; what is finished is kept",
        "mend that and run the same command: it goes on where it stopped",
    )


@contextmanager
def _told_in_words(store: Store) -> Iterator[None]:
    try:
        yield
    except StoreFullError as error:
        raise _cannot_write(store, "full", str(error)) from error
    except PermissionError as error:
        raise _cannot_write(store, "refused", error.strerror or str(error)) from error
