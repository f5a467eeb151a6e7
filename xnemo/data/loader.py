"""Prefetching of batches, in order, by threads or processes."""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count

import cv2
from torch.utils.data import DataLoader, Dataset

from preprocessing.errors import UserError
from xnemo.data.batch import Batch
from xnemo.data.batch_plan import BatchPlan, MicroBatch
from xnemo.data.sample_reader import SampleReader

Batches = Generator[tuple[Batch, float], None, None]


class BatchLoader:
    """Infinite iterator over this rank's (batch, weight) pairs, from any position.

    The number of loader threads or processes does not change the samples. Use it as a context
    manager, or call `close`, to stop them.
    """

    def __init__(
        self,
        reader: SampleReader,
        plan: BatchPlan,
        *,
        samples_seen: int = 0,
        pin_memory: bool = False,
    ) -> None:
        """Start at the step that begins with sample `samples_seen`."""
        self._reader = reader
        self._micro_batches = _endless(plan, samples_seen)
        self._pool: ThreadPoolExecutor | None = None
        config = reader.config
        if config.workers:
            self._batches = self._from_processes(config.workers, config.prefetch, pin_memory)
        else:
            self._pool = ThreadPoolExecutor(
                config.threads, thread_name_prefix="loader", initializer=_use_one_thread
            )
            self._batches = self._from_threads(config.prefetch, pin_memory)

    def __enter__(self) -> "BatchLoader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[tuple[Batch, float]]:
        return self

    def __next__(self) -> tuple[Batch, float]:
        return next(self._batches)

    def close(self) -> None:
        """Stop the threads or processes; prefetched batches are dropped."""
        self._batches.close()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _from_threads(self, prefetch: int, pin: bool) -> Batches:
        assert self._pool is not None
        waiting: deque[tuple[Future[Batch], float]] = deque()
        for micro in self._micro_batches:
            waiting.append(
                (self._pool.submit(self._reader.read_batch, micro.indices), micro.weight)
            )
            if len(waiting) > prefetch:
                future, weight = waiting.popleft()
                batch = future.result()
                yield (batch.pin_memory() if pin else batch), weight

    def _from_processes(self, workers: int, prefetch: int, pin: bool) -> Batches:
        loader = DataLoader(
            _MicroBatches(self._reader),
            batch_size=None,
            sampler=self._micro_batches,
            num_workers=workers,
            prefetch_factor=prefetch,
            pin_memory=pin,
            # Decoders and OpenCV run threads, whose locks a forked child would inherit.
            multiprocessing_context="forkserver",
            worker_init_fn=_use_one_thread,
        )
        for result in loader:
            if isinstance(result, UserError):
                raise result
            yield result


class _MicroBatches(Dataset[tuple[Batch, float] | UserError]):
    """Map from a micro-batch's indices to its batch, inside a loader process."""

    def __init__(self, reader: SampleReader) -> None:
        self.reader = reader

    def __getitem__(self, micro: MicroBatch) -> tuple[Batch, float] | UserError:
        try:
            return self.reader.read_batch(micro.indices), micro.weight
        except UserError as error:
            # torch would wrap a raised error in its own, with a traceback as message.
            return error


def _use_one_thread(worker: int = 0) -> None:
    """Limit OpenCV to one thread per process.

    Crops of faces are too small for several, and idle OpenCV threads poll for work.
    """
    cv2.setNumThreads(1)


def _endless(plan: BatchPlan, samples_seen: int) -> Iterator[MicroBatch]:
    for seen in count(samples_seen, plan.global_batch):
        yield from plan.step(seen)
