"""The parts of the job that run on Ray: what crosses it is small records, never frames."""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from queue import SimpleQueue
from typing import Any

from preprocessing.chunk.run import run_chunk
from preprocessing.chunk.task import Chunk
from preprocessing.config import PreprocessConfig
from preprocessing.dataset.finalize import ShardDone, ShardJob, write_shard
from preprocessing.dataset.plan import SourceEntry, look_into
from preprocessing.dataset.sources import SourceFile
from preprocessing.sandbox.isolate import Isolated
from preprocessing.storage.store import StoreFullError, open_store

# A chunk is a block of its own, so that none waits for another's neighbour; Ray keeps some
# kilobytes for each. Waves of this many bound that, and as the longest chunks go first, the workers
# that wait at a wave's end wait for short ones.
_CHUNKS_AT_ONCE = 10_000


def quiet_ray() -> None:
    """Keep Ray Data's own log lines and bars off the terminal; call before it runs anything."""
    import ray.data

    for name in ("ray.data", "ray.data._internal"):
        # Errors are raised as well, and told once by whoever handles them.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def entries_here(
    files: Sequence[SourceFile], config: PreprocessConfig, threads: int
) -> Iterator[SourceEntry]:
    """Look into a few sources from this process; yield entries as they come.

    Each thread has a child of its own; for a few files that is sooner done than starting workers.
    """
    with ExitStack() as stack:
        free: SimpleQueue[Isolated] = SimpleQueue()
        for _ in range(threads):
            free.put(stack.enter_context(Isolated()))

        def look(file: SourceFile) -> SourceEntry:
            child = free.get()
            try:
                return look_into(file, config, child)
            finally:
                free.put(child)

        pool = stack.enter_context(ThreadPoolExecutor(threads, thread_name_prefix="look"))
        for done in as_completed([pool.submit(look, file) for file in files]):
            yield done.result()


def stream_entries(
    files: Sequence[SourceFile], config: PreprocessConfig, workers: int
) -> Iterator[SourceEntry]:
    """Look into sources on all workers; yield entries as they come."""
    import ray

    items = [{"file": json.dumps(asdict(file))} for file in files]
    # A task per handful of sources: enough to spread, few enough to schedule ten thousand at once.
    blocks = min(len(items), max(workers * 8, len(items) // 64))

    def look(row: dict[str, Any]) -> dict[str, Any]:
        file = SourceFile(**json.loads(row["file"]))
        return {"entry": json.dumps(asdict(look_into(file, config)))}

    entries = ray.data.from_items(items, override_num_blocks=blocks).map(look, num_cpus=1)
    for row in entries.iter_rows():
        content = json.loads(row["entry"])
        for name in ("key_us", "key_index"):
            content[name] = tuple(content[name])
        yield SourceEntry(**content)


def stream_chunks(
    todo: Sequence[tuple[Chunk, str]], config: PreprocessConfig, store_url: str, workers: int
) -> Iterator[dict[str, Any]]:
    """Process chunks on all workers, longest first; yield a record of each as it is done.

    Tasks, not actors: they start in processes that Ray has ready, go to nodes that join later, and
    leave those that go. A process keeps its child, models loaded, from task to task all the same.
    """
    import ray

    ordered = sorted(todo, key=lambda item: (-item[0].seconds, item[1]))
    for begin in range(0, len(ordered), _CHUNKS_AT_ONCE):
        wave = ordered[begin : begin + _CHUNKS_AT_ONCE]
        items = [{"job": json.dumps({"chunk": asdict(c), "part": p})} for c, p in wave]
        results = ray.data.from_items(items, override_num_blocks=len(items)).map(
            partial(_process_item, config=config, store_url=store_url),
            compute=ray.data.TaskPoolStrategy(size=min(workers, len(items))),
            num_cpus=1,
        )
        # Without prefetching, which would hold every record back until the next one is there.
        tables: Iterable[Any] = results.iter_batches(
            batch_size=None, prefetch_batches=0, batch_format="pyarrow"
        )
        for table in tables:
            yield from map(json.loads, table["record"].to_pylist())


def _process_item(row: dict[str, Any], config: PreprocessConfig, store_url: str) -> dict[str, str]:
    """Process one chunk and return a record of it.

    Never raises for what is in a source; a place that cannot be written to ends in a record with
    the status `failed` or `full`.
    """
    job = json.loads(row["job"])
    try:
        record = run_chunk(Chunk(**job["chunk"]), job["part"], open_store(store_url), config)
    except OSError as error:
        status = "full" if isinstance(error, StoreFullError) else "failed"
        record = {"status": status, "detail": str(error), "part": job["part"]}
    return {"record": json.dumps(record)}


def stream_shards(jobs: Sequence[ShardJob], workers: int) -> Iterable[ShardDone]:
    """Write shards on all workers at once; yield each as it is published."""
    import ray

    write = ray.remote(num_cpus=1)(write_shard)
    waiting = list(jobs)
    running: list[Any] = []
    while waiting or running:
        while waiting and len(running) < workers:
            running.append(write.remote(waiting.pop(0)))
        ready, running = ray.wait(running, num_returns=1)
        yield ray.get(ready[0])
