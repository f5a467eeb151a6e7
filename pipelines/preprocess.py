"""The preprocessing job: raw videos to shards, on this machine or a Ray cluster.

Everything the job knows lies in the output folder: what was found in each source, the plan, and a
part for every chunk that is done. Running the same command again is the resume.
"""

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, overload

from pipelines.cluster import connect
from pipelines.preprocess_progress import JobProgress, OnProgress, terminal_progress
from pipelines.preprocess_result import Forecast, PreprocessResult, Verification
from pipelines.preprocess_stream import (
    entries_here,
    quiet_ray,
    stream_chunks,
    stream_entries,
    stream_shards,
)
from pipelines.preprocess_tracking import log_report
from preprocessing.chunk_task import Chunk
from preprocessing.config import PreprocessConfig
from preprocessing.detect import make_detector
from preprocessing.errors import UserError
from preprocessing.index import read_table
from preprocessing.plan import (
    SourceEntry,
    analysis_digest,
    chunks_of,
    is_unchanged,
    part_name,
    read_entries,
    write_entries,
    write_plan,
)
from preprocessing.quarantine import read_quarantine
from preprocessing.report_write import write_report
from preprocessing.seal import (
    DATASET_NAME,
    Gathered,
    ShardDone,
    ShardJob,
    finish,
    gather,
    plain,
    write_shard,
)
from preprocessing.sources import FoundSources, SourceFile, find_sources
from preprocessing.storage import Store, open_store
from preprocessing.verify import verify as verify_store

__all__ = ["Forecast", "JobProgress", "PreprocessResult", "Verification", "preprocess"]

log = logging.getLogger(__name__)

# Reasons that another run may not meet again: a slow disk, a neighbour's memory.
_WORTH_RETRYING = {"timeout", "crash", "memory", "error"}
# Up to so many new sources are looked into, and so many bytes of shards written, from here.
_FEW_SOURCES = 200
_FEW_BYTES = 2**28
# A forecast processes this much: so many seconds of so many chunks.
_SAMPLE_CHUNKS, _SAMPLE_S = 8, 10.0


@dataclass(frozen=True)
class _Plan:
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


@overload
def preprocess(
    videos: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: PreprocessConfig | None = None,
    *,
    address: str | None = None,
    workers: int | None = None,
    dry_run: Literal[False] = False,
    verify: Literal[False] = False,
    retry_quarantine: bool = False,
    strict: bool = False,
    tracking: str | None = None,
    on_progress: OnProgress | None = None,
) -> PreprocessResult: ...


@overload
def preprocess(
    videos: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: PreprocessConfig | None = None,
    *,
    address: str | None = None,
    workers: int | None = None,
    dry_run: bool = False,
    verify: bool = False,
    retry_quarantine: bool = False,
    strict: bool = False,
    tracking: str | None = None,
    on_progress: OnProgress | None = None,
) -> PreprocessResult | Forecast | Verification: ...


def preprocess(
    videos: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: PreprocessConfig | None = None,
    *,
    address: str | None = None,
    workers: int | None = None,
    dry_run: bool = False,
    verify: bool = False,
    retry_quarantine: bool = False,
    strict: bool = False,
    tracking: str | None = None,
    on_progress: OnProgress | None = None,
) -> PreprocessResult | Forecast | Verification:
    """Turn raw videos into shards and an index.

    Args:
        videos: a folder, a video, a list file or an fsspec URL.
        out: folder or fsspec URL of the data set.
        config: settings.
        address: Ray cluster; None for this machine.
        workers: processes that work at once; None for one a CPU.
        dry_run: write nothing; process a small sample and return a Forecast.
        verify: do nothing but compare the finished data set with its checksums.
        retry_quarantine: look again into sources that were bad, and process those again that timed
            out, crashed or ran out of memory.
        strict: anything in quarantine makes the result's exit code 1.
        tracking: URI of an MLflow store that is to have the report; None for the one in
            MLFLOW_TRACKING_URI, or none. The job does not fail with it.
        on_progress: called as the job moves on; None shows progress on standard error.

    Raises:
        UserError: there is nothing readable, a setting is wrong, or the place to write to refuses.
    """
    with ExitStack() as stack:
        tell = on_progress or stack.enter_context(terminal_progress())
        if verify:
            return _verify(open_store(out), tell)
        config = _with_absolute_pack(config or PreprocessConfig())
        job = _Job(videos, open_store(out), config, address, workers, tell)
        with job:
            if dry_run:
                return job.forecast()
            result = job.run(retry_quarantine, strict)
        uri = tracking or os.environ.get("MLFLOW_TRACKING_URI")
        if uri and result.processed:
            problem = log_report(open_store(out), config, uri)
            if problem:
                log.warning("the report is not in MLflow: %s", problem)
        return result


class _Job:
    """One run of the job; Ray is started when there is work for it and not before."""

    def __init__(
        self,
        videos: str | os.PathLike[str],
        store: Store,
        config: PreprocessConfig,
        address: str | None,
        workers: int | None,
        tell: OnProgress,
    ) -> None:
        self._videos = videos
        self._store = store
        self._config = config
        self._address = address
        self._wanted_workers = workers
        self._tell = tell
        self._stack = ExitStack()
        self._workers: int | None = None
        self._began = time.monotonic()

    def __enter__(self) -> "_Job":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def run(self, retry: bool, strict: bool) -> PreprocessResult:
        """Do everything that is not done yet."""
        plan = self._plan(retry)
        sealed_from = self._seal_digest(plan)
        if not plan.todo and self._is_sealed(sealed_from):
            self._tell(JobProgress("done", 1, 1))
            return self._result(plan, read_table(self._store.url).to_pylist(), strict)
        self._store.sweep()
        write_plan(self._store, plan.chunks, plan.parts)
        self._process(plan, plan.todo)
        gathered = gather(self._store, plan.chunks, plan.parts, self._config)
        if gathered.stale:
            # A threshold was loosened: clips that were dropped unencoded are wanted now.
            again = [i for i, part in enumerate(plan.parts) if part in set(gathered.stale)]
            self._process(plan, again)
            plan = replace(plan, todo=[*plan.todo, *again])
            gathered = gather(self._store, plan.chunks, plan.parts, self._config)
        rows, quarantine = self._seal(plan, gathered, sealed_from)
        self._tell(JobProgress("done", 1, 1, _kept(rows), len(rows), len(quarantine)))
        return self._result(plan, rows, strict)

    def forecast(self) -> Forecast:
        """Process a little of the job somewhere else and say what all of it would take."""
        plan = self._plan(retry=False, remember=False)
        total_s = sum(chunk.seconds for chunk in plan.chunks)
        step = max(1, len(plan.chunks) // _SAMPLE_CHUNKS)
        ordered = sorted(plan.chunks, key=lambda chunk: (chunk.seconds, chunk.sha256, chunk.number))
        sample = [_beginning(chunk) for chunk in ordered[step // 2 :: step]]
        records: list[dict[str, Any]] = []
        with tempfile.TemporaryDirectory(prefix="xnemo-forecast-") as scratch:
            todo = [(chunk, f"{number}.tar") for number, chunk in enumerate(sample)]
            for record in stream_chunks(todo, self._config, scratch, self._ray()):
                records.append(record)
                self._tell(JobProgress("process", len(records), len(sample)))
        sampled_s = sum(record["frames"] for record in records) / 25.0
        scale = total_s / sampled_s if sampled_s else 0.0
        busy_s = sum(record["busy_s"] for record in records) * scale
        share_left = sum(plan.chunks[i].seconds for i in plan.todo) / total_s if total_s else 0.0
        kept_s = sum(record["kept_s"] for record in records) * scale
        # Clips of a sample are cut off at its end; those of the whole are as long as they may be.
        usual_s = min(self._config.tube.max_s, total_s / max(1, len(plan.chunks)))
        return Forecast(
            sources=len(plan.found.files),
            readable=len(plan.readable),
            source_s=total_s,
            chunks=len(plan.chunks),
            todo=len(plan.todo),
            clips=kept_s / usual_s if usual_s else 0.0,
            kept_s=kept_s,
            bytes=sum(record["bytes"] for record in records) * scale,
            core_hours=busy_s * share_left / 3600,
            sampled_s=sampled_s,
        )

    def _plan(self, retry: bool, remember: bool = True) -> _Plan:
        found = find_sources(self._videos, self._config.plan.licence)
        detect = self._config.detect
        models = dict(make_detector(detect.name, detect.faces_pack).model_sha256)
        entries, changed = self._look_into_all(found.files, retry)
        good = [f for f in found.files if not entries[f.name].reason]
        if not good:
            first = entries[found.files[0].name]
            raise UserError(
                f"none of the {len(found.files)} sources in {self._videos} can be read "
                f"({first.name}: {first.reason}, {first.detail})",
                "name videos that play",
            )
        if changed and remember:
            write_entries(self._store, entries.values())
        owner: dict[str, str] = {}
        for file in good:
            owner.setdefault(entries[file.name].sha256, file.name)
        readable = [f for f in good if owner[entries[f.name].sha256] == f.name]
        same = {f.name: owner[entries[f.name].sha256] for f in good if f not in set(readable)}
        chunks = [c for f in readable for c in chunks_of(f, entries[f.name], self._config)]
        analysis = analysis_digest(self._config, models)
        parts = [part_name(chunk, analysis) for chunk in chunks]
        present = self._store.list("_work/parts")
        redo = self._failed_before() if retry else set()
        todo = [
            i
            for i, (c, p) in enumerate(zip(chunks, parts, strict=True))
            if p not in present or c.source in redo
        ]
        return _Plan(found, entries, readable, same, chunks, parts, todo, models)

    def _look_into_all(
        self, files: Sequence[SourceFile], retry: bool
    ) -> tuple[dict[str, SourceEntry], bool]:
        """Return an entry a source, remembered where unchanged, and whether any changed."""
        known = read_entries(self._store)
        if retry:
            known = {name: entry for name, entry in known.items() if not entry.reason}
        entries = {f.name: known[f.name] for f in files if is_unchanged(f, known.get(f.name))}
        new = [file for file in files if file.name not in entries]
        self._tell(JobProgress("plan", len(entries), len(files)))
        threads = min(max(1, len(new)), self._wanted_workers or os.cpu_count() or 1)
        looks = (
            entries_here(new, self._config, threads)
            if len(new) <= _FEW_SOURCES
            else stream_entries(new, self._config, self._ray())
        )
        for entry in looks:
            entries[entry.name] = entry
            self._tell(JobProgress("plan", len(entries), len(files)))
        return entries, bool(new) or len(known) != len(entries)

    def _failed_before(self) -> set[str]:
        return {
            row["source"]
            for row in read_quarantine(self._store)
            if row["stage"] != "plan" and row["reason"] in _WORTH_RETRYING
        }

    def _process(self, plan: _Plan, positions: Sequence[int]) -> None:
        if not positions:
            return
        todo = [(plan.chunks[i], plan.parts[i]) for i in positions]
        total_s = sum(chunk.seconds for chunk in plan.chunks)
        done_s = total_s - sum(chunk.seconds for chunk, _ in todo)
        kept = clips = bad = 0
        self._tell(JobProgress("process", done_s, total_s))
        for record in stream_chunks(todo, self._config, self._store.url, self._ray()):
            if record["status"] != "done":
                raise _cannot_write(self._store, record["status"], record["detail"])
            done_s += record["seconds"]
            kept, clips = kept + record["kept"], clips + record["clips"]
            bad += record["damage"]
            self._tell(JobProgress("process", done_s, total_s, kept, clips, bad))

    def _seal(
        self, plan: _Plan, gathered: Gathered, sealed_from: str
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        quarantine = [*_bad_sources(plan), *gathered.damage]
        facts = {
            "models": plan.models,
            "config_sha256": _config_digest(self._config),
            "sealed_from": sealed_from,
            "videos": {f.name: _video(plan.entries[f.name]) for f in plan.readable},
            "same": plan.same,
            "sources": {f.name: plan.entries[f.name].sha256 for f in plan.found.files},
        }
        with _told_in_words(self._store):
            rows = finish(
                self._store, gathered, quarantine, self._config, facts, self._write_shards
            )
            write_report(
                self._store,
                rows,
                quarantine,
                gathered.ends,
                self._config,
                {
                    "sources": len(plan.found.files),
                    "readable": len(plan.readable) + len(plan.same),
                    "ignored": plan.found.ignored,
                    "seconds": time.monotonic() - self._began,
                    "processed_s": sum(plan.chunks[i].seconds for i in plan.todo),
                    "workers": self._workers or 0,
                },
            )
        return rows, quarantine

    def _write_shards(self, jobs: Sequence[ShardJob]) -> Iterable[ShardDone]:
        if not jobs:
            return
        self._tell(JobProgress("seal", 0, len(jobs)))
        size = sum(row["mp4_length"] for job in jobs for row in job.rows)
        here = len(jobs) == 1 or size < _FEW_BYTES
        writing = map(write_shard, jobs) if here else stream_shards(jobs, self._ray())
        for number, done in enumerate(writing, start=1):
            self._tell(JobProgress("seal", number, len(jobs)))
            yield done

    def _ray(self) -> int:
        """Be connected to Ray and return the number of workers to use."""
        if self._workers is None:
            quiet_ray()
            cluster = self._stack.enter_context(connect(self._address, self._wanted_workers))
            self._workers = self._wanted_workers or max(1, int(cluster.cpus))
        return self._workers

    def _seal_digest(self, plan: _Plan) -> str:
        """Return the digest of all that decides the finished data set."""
        sources = [
            [f.name, f.licence, plan.entries[f.name].sha256, plan.entries[f.name].reason]
            for f in plan.found.files
        ]
        facts = [sources, sorted(plan.parts), _config_digest(self._config), plan.models]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _is_sealed(self, sealed_from: str) -> bool:
        if not self._store.exists(DATASET_NAME):
            return False
        content = json.loads(self._store.read(DATASET_NAME))
        present = self._store.list("shards")
        return content.get("sealed_from") == sealed_from and set(present) == {
            f"shards/{name}" for name in content["shards"]
        }

    def _result(
        self, plan: _Plan, rows: Sequence[dict[str, Any]], strict: bool
    ) -> PreprocessResult:
        kept = [row for row in rows if row["status"] == "kept"]
        return PreprocessResult(
            out=self._store.url,
            sources=len(plan.found.files),
            bad_sources=len(plan.found.files) - len(plan.readable) - len(plan.same),
            chunks=len(plan.chunks),
            processed=len(plan.todo),
            clips=len(rows),
            kept=len(kept),
            kept_s=float(sum(row["duration_s"] for row in kept)),
            shards=len({row["shard"] for row in kept}),
            bytes=sum(row[f"{m}_length"] for row in kept for m in ("mp4", "npz", "json")),
            quarantined=len(read_quarantine(self._store)),
            seconds=time.monotonic() - self._began,
            strict=strict,
        )


def _verify(store: Store, tell: OnProgress) -> Verification:
    members, faults = verify_store(store, lambda n, total: tell(JobProgress("seal", n, total)))
    return Verification(store.url, members, tuple(faults))


def _beginning(chunk: Chunk) -> Chunk:
    """Return the first seconds of a chunk."""
    start_s = chunk.decode_from_s if chunk.decode_from_s is not None else chunk.origin_us / 1e6
    end_s = start_s + _SAMPLE_S + (chunk.start_s - start_s if chunk.start_s is not None else 0.0)
    if chunk.decode_to_s is not None:
        end_s = min(end_s, chunk.decode_to_s)
    return replace(chunk, decode_to_s=end_s, end_s=None, seconds=min(chunk.seconds, _SAMPLE_S))


def _bad_sources(plan: _Plan) -> list[dict[str, Any]]:
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


def _video(entry: SourceEntry) -> dict[str, Any]:
    return {
        "fps": entry.fps,
        "variable_rate": entry.variable_rate,
        "width": entry.width,
        "height": entry.height,
        "codec": entry.codec,
        "rotation": entry.rotation,
    }


def _kept(rows: Sequence[dict[str, Any]]) -> int:
    return sum(row["status"] == "kept" for row in rows)


def _with_absolute_pack(config: PreprocessConfig) -> PreprocessConfig:
    """Workers start elsewhere, where a relative folder would not be found."""
    pack = config.detect.faces_pack
    if pack and Path(pack).expanduser().is_dir():
        pack = str(Path(pack).expanduser().absolute())
        return replace(config, detect=replace(config.detect, faces_pack=pack))
    return config


def _config_digest(config: PreprocessConfig) -> str:
    settings = plain(config)
    # Where weights lie says nothing about what they are; their checksums do.
    settings["detect"]["faces_pack"] = None
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


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
    from preprocessing.storage import StoreFullError

    try:
        yield
    except StoreFullError as error:
        raise _cannot_write(store, "full", str(error)) from error
