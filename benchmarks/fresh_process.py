"""Tasks of the benchmark that need a process of their own; each prints one number last."""

import os
import sys
import tempfile
import time
from pathlib import Path

from preprocessing_setting import Tally, chunks_in, process_here

from preprocessing.config import PreprocessConfig
from preprocessing.sandbox.process import peak_memory_mb


def process_in_child(path: Path) -> float:
    """Process a video as a worker does; return the peak memory of the working process in MB."""
    from preprocessing.chunk.run import run_chunk
    from preprocessing.sandbox.isolate import shared_child
    from preprocessing.storage.store import open_store

    config = PreprocessConfig()
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        for number, chunk in enumerate(chunks_in(path, config)):
            run_chunk(chunk, f"{number}.tar", store, config)
        return shared_child().peak_memory_mb


def process_alone(path: Path) -> float:
    """Process a video as the plain loop does; return the seconds it takes, imports left out."""
    began = time.perf_counter()
    process_here(path, PreprocessConfig(), Tally())
    return time.perf_counter() - began


def finish_job(job: Path) -> float:
    """Run a planned job to its end; return this process's own peak memory in MB."""
    _run(job)
    return peak_memory_mb(os.getpid())


def rerun_job(job: Path) -> float:
    """Run a finished job again; return the seconds it takes."""
    began = time.perf_counter()
    _run(job)
    return time.perf_counter() - began


def _run(job: Path) -> None:
    from pipelines.preprocess.job import preprocess

    preprocess(job / "videos", job / "out", concurrency=2, on_progress=lambda progress: None)


if __name__ == "__main__":
    print(globals()[sys.argv[1]](Path(sys.argv[2])))
