"""What the rows of `bench_preprocessing` work on, and the plain loop they compare with."""

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import av

from preprocessing.chunk.records import Chunk, ChunkEnd, ClipResult
from preprocessing.chunk.task import process_chunk
from preprocessing.config import FilterConfig, PreprocessConfig
from preprocessing.dataset.chunking import chunks_of
from preprocessing.dataset.entries import probe_source
from preprocessing.dataset.sources import find_sources

_ANALYSIS_STAGES = ("decode", "shots", "detect", "buffer")
# Nothing is dropped, so that every clip can be compared.
KEEP_ALL = FilterConfig(
    min_face_px=0, min_picture_px=0, min_detection=0, min_detected=0, max_yaw=180, max_pitch=180,
    max_roll=180, min_sharpness=0, min_exposure=0, max_exposure=9, min_contrast=0, min_motion=0,
    max_out_of_frame=1, max_pad=1, max_others=1, max_occlusion=9, max_overlay=9, max_repeated=1,
)  # fmt: skip


@dataclass
class Setting:
    """What all rows work on."""

    folder: Path
    # Real clips, or synthetic ones.
    clips: list[Path]
    smoke: bool
    # "real clips" or what stands in for them.
    kind: str
    config: PreprocessConfig = field(default_factory=PreprocessConfig)

    def note(self, text: str = "") -> str:
        return ", ".join(part for part in (f"{len(self.clips)} {self.kind}", text) if part)


@dataclass
class Tally:
    """What our chunk task did on some videos."""

    frames: int = 0
    seconds: float = 0.0
    stages: Counter[str] = field(default_factory=Counter)
    clips: list[tuple[Chunk, ClipResult]] = field(default_factory=list)

    @property
    def analysis_s(self) -> float:
        return sum(self.stages[stage] for stage in _ANALYSIS_STAGES)


def chunks_in(path: Path, config: PreprocessConfig) -> list[Chunk]:
    """Return what a job would make of a video: none where it refuses it."""
    file = find_sources(path).files[0]
    entry = probe_source(file, config)
    return [] if entry.reason else chunks_of(file, entry, config)


def process_here(path: Path, config: PreprocessConfig, tally: Tally) -> None:
    """Run our chunk task on a video in this process, as B1 does; add to `tally`."""
    for chunk in chunks_in(path, config):
        began = time.process_time()
        results = list(process_chunk(chunk, config))
        tally.seconds += time.process_time() - began
        end = results[-1]
        assert isinstance(end, ChunkEnd)
        tally.stages.update(end.stages)
        tally.clips += [(chunk, item) for item in results if isinstance(item, ClipResult)]
        tally.frames += source_frames(path)


def source_frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(
            1 for packet in container.demux(video=0) if packet.size and not packet.is_discard
        )
