"""Stage 2, process: chunks to chunk outputs, streamed by Ray Data.

Only small records cross Ray, never frames.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from pipelines.cluster.metrics import record as export
from pipelines.preprocess.context import JobContext, cannot_write
from pipelines.preprocess.progress import JobProgress
from preprocessing.chunk.records import Chunk, ChunkRecord
from preprocessing.chunk.run import run_chunk
from preprocessing.config import PreprocessConfig
from preprocessing.dataset.plan import Plan
from preprocessing.storage.store import StoreFullError, open_store

log = logging.getLogger(__name__)

# Every chunk is a block of its own, so that none waits for another; Ray keeps some kilobytes per
# block. Waves of this many bound that, and as the longest chunks go first, workers that are idle at
# the end of a wave wait for short ones.
_CHUNKS_AT_ONCE = 10_000
_WARNINGS = 20


@dataclass(frozen=True)
class Processed:
    """A plan of which every chunk has an output."""

    plan: Plan
    # Tasks that ran at once; 0 where there was nothing to process.
    workers: int


def process(plan: Plan, job: JobContext) -> Processed:
    """Process the plan's pending chunks.

    Raises:
        UserError: the store is full or does not accept writes.
    """
    # Unfinished files of a killed run; the store may be short of space.
    job.store.sweep()
    for line in plan.undivided(job.config.plan.chunk_s)[:_WARNINGS]:
        log.warning(line)
    if plan.todo:
        todo = [(plan.chunks[i], plan.outputs[i]) for i in plan.todo]
        total_s = plan.seconds
        done_s = total_s - plan.todo_seconds
        kept = clips = bad = 0
        job.notify(JobProgress("process", done_s, total_s))
        workers = job.workers.connect()
        for record in stream_chunks(todo, job.config, job.store.url, workers):
            if record.status != "done":
                raise cannot_write(job.store, record.status, record.detail)
            done_s += record.seconds
            kept, clips, bad = kept + record.kept, clips + record.clips, bad + record.damage
            _export(record, total_s - done_s)
            job.notify(JobProgress("process", done_s, total_s, kept, clips, bad))
    return Processed(plan, job.workers.used)


def _export(record: ChunkRecord, pending_s: float) -> None:
    """Let Prometheus know of a chunk that is done."""
    export("xnemo_frames_total", record.frames)
    for outcome, clips in {"kept": record.kept, **record.dropped}.items():
        export("xnemo_clips_total", clips, outcome=outcome)
    export("xnemo_quarantined_total", record.damage)
    export("xnemo_pending_seconds", pending_s)


def stream_chunks(
    todo: Sequence[tuple[Chunk, str]], config: PreprocessConfig, store_url: str, workers: int
) -> Iterator[ChunkRecord]:
    """Process chunks on all workers, longest first; yield the record of each when it is done.

    Tasks rather than actors: they start in processes that Ray has ready, go to nodes that join
    later, and leave nodes that go. A worker process still keeps its sandboxed process, with models
    loaded, from task to task.

    Args:
        todo: chunks, each with the name of its output.
        config: settings.
        store_url: where the outputs are published.
        workers: tasks at once.
    """
    import ray.data

    ordered = sorted(todo, key=lambda item: (-item[0].seconds, item[1]))
    for begin in range(0, len(ordered), _CHUNKS_AT_ONCE):
        wave = ordered[begin : begin + _CHUNKS_AT_ONCE]
        items = [{"chunk": json.dumps(asdict(c)), "output": output} for c, output in wave]
        results = ray.data.from_items(items, override_num_blocks=len(items)).map(
            partial(_process_item, config=config, store_url=store_url),
            compute=ray.data.TaskPoolStrategy(size=min(workers, len(items))),
            num_cpus=1,
        )
        # Prefetching would hold every record back until the next one is there.
        tables: Iterable[Any] = results.iter_batches(
            batch_size=None, prefetch_batches=0, batch_format="pyarrow"
        )
        for table in tables:
            for record in table["record"].to_pylist():
                yield ChunkRecord(**json.loads(record))


def _process_item(row: dict[str, Any], config: PreprocessConfig, store_url: str) -> dict[str, str]:
    """Process one chunk and return its record; never raises for the content of a source."""
    chunk, output = Chunk(**json.loads(row["chunk"])), row["output"]
    try:
        record = run_chunk(chunk, output, open_store(store_url), config)
    except OSError as error:
        status = "full" if isinstance(error, StoreFullError) else "failed"
        record = ChunkRecord(output, status=status, detail=str(error))
    return {"record": json.dumps(asdict(record))}
