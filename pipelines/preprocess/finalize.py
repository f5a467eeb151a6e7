"""Stage 3, finalize: chunk outputs to shards, index and quarantine."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.preprocess.context import JobContext
from pipelines.preprocess.process import Processed
from pipelines.preprocess.progress import JobProgress
from preprocessing.dataset import finalize as dataset_finalize
from preprocessing.dataset.finalize import Dataset
from preprocessing.dataset.shards import ShardJob, write_shard

# Up to this many bytes of shards are written by this process.
_FEW_BYTES = 2**28


@dataclass(frozen=True)
class Finalized:
    """The published data set, and how it came to be."""

    processed: Processed
    dataset: Dataset


def finalize(processed: Processed, job: JobContext) -> Finalized:
    """Write the data set from all chunk outputs.

    Raises:
        OSError: the store cannot be read or written.
    """
    dataset = dataset_finalize.finalize(
        processed.plan, job.store, job.config, lambda jobs: _write_shards(jobs, job)
    )
    return Finalized(processed, dataset)


def _write_shards(jobs: Sequence[ShardJob], job: JobContext) -> None:
    if not jobs:
        return
    job.notify(JobProgress("finalize", 0, len(jobs)))
    few = len(jobs) == 1 or sum(one.bytes for one in jobs) < _FEW_BYTES
    written = map(write_shard, jobs) if few else _write_on_ray(jobs, job.workers.connect())
    for number, _ in enumerate(written, start=1):
        job.notify(JobProgress("finalize", number, len(jobs)))


def _write_on_ray(jobs: Sequence[ShardJob], workers: int) -> Iterator[str]:
    """Write shards on all workers; yield the name of each when it is published."""
    import ray

    write = ray.remote(num_cpus=1)(write_shard)
    waiting = list(jobs)
    running: list[Any] = []
    while waiting or running:
        while waiting and len(running) < workers:
            running.append(write.remote(waiting.pop(0)))
        ready, running = ray.wait(running, num_returns=1)
        yield ray.get(ready[0])
