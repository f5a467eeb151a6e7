"""Tasks of the benchmark that need a process of their own; each prints one number last."""

import resource
import sys
import tempfile
import time
from pathlib import Path

from preprocessing.config import PreprocessConfig


def process_in_child(path: Path) -> float:
    """Process a video as a worker does; return the peak memory of the working process in MB."""
    from preprocessing.chunk_run import run_chunk
    from preprocessing.isolate import shared_child
    from preprocessing.plan import chunks_of, look_into
    from preprocessing.sources import find_sources
    from preprocessing.storage import open_store

    config = PreprocessConfig()
    file = find_sources(path).files[0]
    entry = look_into(file, config)
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        for number, chunk in enumerate(chunks_of(file, entry, config)):
            run_chunk(chunk, f"{number}.tar", store, config)
        return shared_child().peak_memory_mb


def process_alone(path: Path) -> float:
    """Process a video as the plain loop does; return the seconds it takes, imports left out."""
    from preprocessing.chunk_task import process_chunk
    from preprocessing.plan import chunks_of, look_into
    from preprocessing.sources import find_sources

    config = PreprocessConfig()
    file = find_sources(path).files[0]
    chunks = chunks_of(file, look_into(file, config), config)
    began = time.perf_counter()
    for chunk in chunks:
        list(process_chunk(chunk, config))
    return time.perf_counter() - began


def finish_job(job: Path) -> float:
    """Run a planned job to its end; return this process's own peak memory in MB."""
    _run(job)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def rerun_job(job: Path) -> float:
    """Run a finished job again; return the seconds it takes."""
    began = time.perf_counter()
    _run(job)
    return time.perf_counter() - began


def _run(job: Path) -> None:
    from pipelines.preprocess import preprocess

    preprocess(job / "videos", job / "out", workers=2, on_progress=lambda progress: None)


if __name__ == "__main__":
    print(globals()[sys.argv[1]](Path(sys.argv[2])))
