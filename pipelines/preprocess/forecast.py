"""The forecast of a job's cost: a small sample of it is processed and extrapolated."""

import os
import tempfile
from dataclasses import replace

from pipelines.preprocess.context import JobContext, job_context
from pipelines.preprocess.plan import plan_job
from pipelines.preprocess.process import stream_chunks
from pipelines.preprocess.progress import JobProgress, OnProgress
from pipelines.preprocess.result import Forecast
from preprocessing.chunk.records import Chunk, ChunkRecord
from preprocessing.chunk.task import FPS
from preprocessing.config import PreprocessConfig
from preprocessing.dataset.plan import Plan

# Number of chunks in the sample, and seconds processed of each.
_SAMPLE_CHUNKS, _SAMPLE_S = 8, 10.0


def forecast(
    videos: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: PreprocessConfig | None = None,
    *,
    address: str | None = None,
    concurrency: int | None = None,
    limit: int | None = None,
    on_progress: OnProgress | None = None,
) -> Forecast:
    """Process a small sample of a job and extrapolate; nothing is written to `out`.

    Arguments and errors are those of `preprocess`.
    """
    with job_context(out, config, address, concurrency, on_progress) as job:
        plan = plan_job(videos, job, limit=limit, remember=False)
        return _extrapolate(plan, _process_sample(plan, job), job.config)


def _process_sample(plan: Plan, job: JobContext) -> list[ChunkRecord]:
    step = max(1, len(plan.chunks) // _SAMPLE_CHUNKS)
    ordered = sorted(plan.chunks, key=lambda chunk: (chunk.seconds, chunk.sha256, chunk.number))
    sample = [_beginning(chunk) for chunk in ordered[step // 2 :: step]]
    records: list[ChunkRecord] = []
    with tempfile.TemporaryDirectory(prefix="xnemo-forecast-") as scratch:
        todo = [(chunk, f"{number}.tar") for number, chunk in enumerate(sample)]
        for record in stream_chunks(todo, job.config, scratch, job.workers.connect()):
            records.append(record)
            job.notify(JobProgress("process", len(records), len(sample)))
    return records


def _extrapolate(plan: Plan, records: list[ChunkRecord], config: PreprocessConfig) -> Forecast:
    total_s = plan.seconds
    sampled_s = sum(record.frames for record in records) / FPS
    scale = total_s / sampled_s if sampled_s else 0.0
    share_left = plan.todo_seconds / total_s if total_s else 0.0
    kept_s = sum(record.kept_s for record in records) * scale
    # Clips of a sample end with it; those of the whole job are as long as they may be.
    usual_s = min(config.tube.max_s, total_s / max(1, len(plan.chunks)))
    return Forecast(
        sources=len(plan.found.files),
        readable=len(plan.readable) + len(plan.same),
        source_s=total_s,
        chunks=len(plan.chunks),
        todo=len(plan.todo),
        clips=kept_s / usual_s if usual_s else 0.0,
        kept_s=kept_s,
        bytes=sum(record.bytes for record in records) * scale,
        core_hours=sum(record.busy_s for record in records) * scale * share_left / 3600,
        sampled_s=sampled_s,
        unreadable=tuple(
            f"{entry.name}: {entry.reason}, {entry.detail}"
            for entry in (plan.entries[file.name] for file in plan.found.files)
            if entry.reason
        ),
        undivided=tuple(plan.undivided(config.plan.chunk_s)),
    )


def _beginning(chunk: Chunk) -> Chunk:
    """Return the first seconds of a chunk."""
    start_s = chunk.decode_from_s if chunk.decode_from_s is not None else chunk.origin_us / 1e6
    end_s = start_s + _SAMPLE_S + (chunk.start_s - start_s if chunk.start_s is not None else 0.0)
    if chunk.decode_to_s is not None:
        end_s = min(end_s, chunk.decode_to_s)
    return replace(chunk, decode_to_s=end_s, end_s=None, seconds=min(chunk.seconds, _SAMPLE_S))
