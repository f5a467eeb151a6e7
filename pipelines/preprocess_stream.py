"""The parts of the job that run on Ray: what crosses it is small records, never frames."""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import asdict
from queue import SimpleQueue
from typing import Any

from preprocessing.chunk_run import run_chunk
from preprocessing.chunk_task import Chunk
from preprocessing.config import PreprocessConfig
from preprocessing.isolate import Isolated
from preprocessing.plan import SourceEntry, look_into
from preprocessing.seal import ShardDone, ShardJob, write_shard
from preprocessing.sources import SourceFile
from preprocessing.storage import StoreFullError, open_store

# Chunks handed to a worker beyond the one it is at, so that it never waits for the next.
_AHEAD = 2


def quiet_ray() -> None:
    """Keep Ray's own log lines off the terminal; call before Ray starts.

    Ray Data logs every execution, and warns of each actor pool that its own arguments to actors
    could be lost, which they cannot while the job's driver lives.
    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray.data

    for name in ("ray.data", "ray.data._internal"):
        logging.getLogger(name).setLevel(logging.ERROR)
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


class ChunkWorker:
    """A Ray Data actor: processes chunks one after the other, in a child that it can kill."""

    def __init__(self, config: PreprocessConfig, store_url: str) -> None:
        self._config = config
        self._store = open_store(store_url)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Process the one chunk of a batch and return a record of it.

        Never raises for what is in a source; a place that cannot be written to ends in a record
        with the status `failed` or `full`.
        """
        job = json.loads(batch["job"][0])
        try:
            record = run_chunk(Chunk(**job["chunk"]), job["part"], self._store, self._config)
        except OSError as error:
            status = "full" if isinstance(error, StoreFullError) else "failed"
            record = {"status": status, "detail": str(error), "part": job["part"]}
        return {"record": [json.dumps(record)]}


def stream_chunks(
    todo: Sequence[tuple[Chunk, str]], config: PreprocessConfig, store_url: str, workers: int
) -> Iterator[dict[str, Any]]:
    """Process chunks on an actor pool, longest first; yield a record of each as it is done."""
    import ray

    ordered = sorted(todo, key=lambda item: (-item[0].seconds, item[1]))
    items = [{"job": json.dumps({"chunk": asdict(c), "part": p})} for c, p in ordered]
    results = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        ChunkWorker,
        fn_constructor_args=(config, store_url),
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(
            size=min(workers, len(items)), max_tasks_in_flight_per_actor=_AHEAD
        ),
        num_cpus=1,
    )
    for row in results.iter_rows():
        yield json.loads(row["record"])


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
