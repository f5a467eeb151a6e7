"""Batches ahead of time, in order, from threads or processes."""

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
    """Yield this rank's (batch, weight) pairs without end, from any position.

    Workers only do ahead of time what the reader would do on the spot, so their number changes no
    sample. Use it as a context manager, or call `close`, to stop them.
    """

    def __init__(
        self,
        reader: SampleReader,
        plan: BatchPlan,
        *,
        samples_seen: int = 0,
        pin_memory: bool = False,
    ) -> None:
        """Start reading at the step that begins with sample `samples_seen`."""
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
        """Stop the workers; batches not yet taken are dropped."""
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
            _Requests(self._reader),
            batch_size=None,
            sampler=self._micro_batches,
            num_workers=workers,
            prefetch_factor=prefetch,
            pin_memory=pin,
            # Decoders and OpenCV keep threads; a forked child would inherit their locks held.
            multiprocessing_context="forkserver",
            worker_init_fn=_use_one_thread,
        )
        for answer in loader:
            if isinstance(answer, UserError):
                raise answer
            yield answer


class _Requests(Dataset):
    """Answer a micro-batch's indices with its batch, inside a worker process."""

    def __init__(self, reader: SampleReader) -> None:
        self.reader = reader

    def __getitem__(self, micro: MicroBatch) -> tuple[Batch, float] | UserError:
        try:
            return self.reader.read_batch(micro.indices), micro.weight
        except UserError as error:
            # Raised here, torch would wrap it in its own error, with a traceback for a message.
            return error


def _use_one_thread(worker: int = 0) -> None:
    """Keep OpenCV, process-wide, from starting a thread for every core in every worker.

    Pictures of faces are too small to share out, and its threads poll for their share: beside two
    training processes on two cores a thousand times a second each.
    """
    cv2.setNumThreads(1)


def _endless(plan: BatchPlan, samples_seen: int) -> Iterator[MicroBatch]:
    for seen in count(samples_seen, plan.global_batch):
        yield from plan.step(seen)
