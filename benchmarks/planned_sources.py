"""A job of many sources, nearly all of it done: what a person's second run meets."""

import hashlib
from pathlib import Path

from long_videos import base_video

from preprocessing.chunk.output import pack_output
from preprocessing.chunk.records import ChunkEnd
from preprocessing.config import PreprocessConfig
from preprocessing.dataset.chunking import analysis_digest, chunks_of, output_name
from preprocessing.dataset.entries import SourceEntry, write_entries
from preprocessing.dataset.sources import find_sources
from preprocessing.faces import make_detector
from preprocessing.storage.store import open_store

# Sources whose chunk outputs are left out, so that the stream of chunks runs too.
_LEFT = 4


def plan_without_work(job: Path, count: int, config: PreprocessConfig) -> None:
    """Write `count` small files to `job`/videos and, to `job`/out, what processing them leaves.

    The last few are real videos and left to do. Of the others the plan remembers a length and a
    checksum, and their chunk outputs say that no face was found in them.
    """
    videos, out = job / "videos", job / "out"
    videos.mkdir(parents=True)
    real = base_video(job / "real.mp4", 2, 128, 128).read_bytes()
    for number in range(count):
        last = number >= count - _LEFT
        content = real + str(number).encode() if last else f"source {number}".encode()
        (videos / f"{number:06d}.mp4").write_bytes(content)
    store = open_store(out)
    models = dict(make_detector(config.detect.name, config.detect.model_dir).model_sha256)
    analysis = analysis_digest(config, models)
    nobody = pack_output([], ChunkEnd(cuts_ms=(0,), frames=50, detector_runs=7, damage=()), [])
    entries = []
    for file in find_sources(videos).files[: count - _LEFT]:
        digest = hashlib.sha256(file.name.encode()).hexdigest()
        entry = SourceEntry(
            name=file.name, size=file.size, stamp=file.stamp, sha256=digest, duration_s=2.0,
            fps=25.0, width=128, height=128, codec="h264", key_us=(0,), key_index=(0,),
        )  # fmt: skip
        entries.append(entry)
        for chunk in chunks_of(file, entry, config):
            store.write_atomic(output_name(chunk, analysis), nobody)
    write_entries(store, entries)
