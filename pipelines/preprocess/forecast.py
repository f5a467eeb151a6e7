"""What a preprocessing job would cost, learnt from a small part of it."""

import tempfile
from dataclasses import replace
from typing import Any

from pipelines.preprocess.plan import JobPlan
from pipelines.preprocess.progress import JobProgress, OnProgress
from pipelines.preprocess.result import Forecast
from pipelines.preprocess.stream import stream_chunks
from pipelines.preprocess.workers import Workers
from preprocessing.chunk.task import Chunk
from preprocessing.config import PreprocessConfig

# So many seconds of so many chunks are processed and thrown away.
_SAMPLE_CHUNKS, _SAMPLE_S = 8, 10.0


def forecast(
    plan: JobPlan, config: PreprocessConfig, workers: Workers, tell: OnProgress
) -> Forecast:
    """Process a little of the job somewhere else and say what all of it would take."""
    total_s = sum(chunk.seconds for chunk in plan.chunks)
    step = max(1, len(plan.chunks) // _SAMPLE_CHUNKS)
    ordered = sorted(plan.chunks, key=lambda chunk: (chunk.seconds, chunk.sha256, chunk.number))
    sample = [_beginning(chunk) for chunk in ordered[step // 2 :: step]]
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="xnemo-forecast-") as scratch:
        todo = [(chunk, f"{number}.tar") for number, chunk in enumerate(sample)]
        for record in stream_chunks(todo, config, scratch, workers.count()):
            records.append(record)
            tell(JobProgress("process", len(records), len(sample)))
    sampled_s = sum(record["frames"] for record in records) / 25.0
    scale = total_s / sampled_s if sampled_s else 0.0
    busy_s = sum(record["busy_s"] for record in records) * scale
    share_left = sum(plan.chunks[i].seconds for i in plan.todo) / total_s if total_s else 0.0
    kept_s = sum(record["kept_s"] for record in records) * scale
    # Clips of a sample are cut off at its end; those of the whole are as long as they may be.
    usual_s = min(config.tube.max_s, total_s / max(1, len(plan.chunks)))
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


def _beginning(chunk: Chunk) -> Chunk:
    """Return the first seconds of a chunk."""
    start_s = chunk.decode_from_s if chunk.decode_from_s is not None else chunk.origin_us / 1e6
    end_s = start_s + _SAMPLE_S + (chunk.start_s - start_s if chunk.start_s is not None else 0.0)
    if chunk.decode_to_s is not None:
        end_s = min(end_s, chunk.decode_to_s)
    return replace(chunk, decode_to_s=end_s, end_s=None, seconds=min(chunk.seconds, _SAMPLE_S))
