"""The chunk task: decodes a chunk of a source once and yields finished clips.

Runs in a sandboxed process (`preprocessing.sandbox.isolate`) and yields each clip as soon as it is
encoded, so that a crash loses nothing that was finished before.
"""

import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from preprocessing.chunk.clips import ClipCutter
from preprocessing.chunk.finish import ClipFinisher
from preprocessing.chunk.records import Chunk, ChunkEnd, ClipResult, Stopwatch
from preprocessing.chunk.scan import Scanned, Scanner
from preprocessing.config import DetectConfig, PreprocessConfig
from preprocessing.decode import DecodeError, Tick, open_video, resample
from preprocessing.errors import UserError
from preprocessing.faces import Detector, make_detector
from preprocessing.heartbeat import heartbeat
from preprocessing.shots import LUMA_SIDE, CutFinder
from preprocessing.storage.location import location_status, open_location
from preprocessing.synthetic.truth import Truth, is_truth, read_truth, truth_name

#: Frames per second of every clip.
FPS = 25.0


def process_chunk(chunk: Chunk, config: PreprocessConfig) -> Iterator[ClipResult | ChunkEnd]:
    """Yield a chunk's clips, kept and dropped, then one ChunkEnd.

    Heartbeats report the time reached, in microseconds.

    Raises:
        DecodeError: the source yields nothing.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    clock = Stopwatch()
    with clock("load"):
        detector = _detector(config.detect)
    with open_video(open_location(chunk.location), config.decode.backend, fall_back=True) as reader:
        worker = _ChunkWorker(chunk, config, detector, clock, _truth(chunk.location))
        frames = reader.frames(chunk.decode_from_s, chunk.decode_to_s, chunk.decode_from_index)
        ticks = resample(frames, FPS, origin_us=chunk.origin_us)
        for tick in clock.each("decode", ticks):
            heartbeat(tick.time_us)
            yield from worker.push(tick)
        yield from worker.flush()
        yield ChunkEnd(
            cuts_ms=tuple(worker.cuts_ms),
            frames=worker.frames,
            detector_runs=worker.detector_runs,
            damage=tuple((d.start_s, d.end_s, d.reason, d.detail) for d in reader.damage),
            stages=clock.seconds(),
        )


@lru_cache(maxsize=1)
def _detector(config: DetectConfig) -> Detector:
    return make_detector(config.name, config.model_dir, config.size, config.threshold)


def _truth(location: str) -> Truth | None:
    """Return the truth file beside a source; other tables are none.

    Raises:
        DecodeError: the truth file is damaged.
    """
    name = truth_name(location)
    if location_status(name)[0] <= 0:
        return None
    source = open_location(name)
    content = Path(source).read_bytes() if isinstance(source, str) else source.read()
    try:
        return read_truth(content, name) if is_truth(content) else None
    except UserError as error:
        raise DecodeError("corrupt", str(error)) from error


class _ChunkWorker:
    """Shots, tracks and clips of one chunk, fed tick by tick."""

    def __init__(
        self,
        chunk: Chunk,
        config: PreprocessConfig,
        detector: Detector,
        clock: Stopwatch,
        truth: Truth | None,
    ) -> None:
        self._chunk = chunk
        self._config = config
        self._detector = detector
        self._clock = clock
        self._finisher = ClipFinisher(config, detector, clock, chunk.origin_us, FPS, truth)
        self._cuts = CutFinder(config.shots)
        self._shot = -1
        self._last_tick: int | None = None
        self._scanner: Scanner | None = None
        self._cutter: ClipCutter | None = None
        self._gap = max(1, round(config.track.gap_s * FPS))
        self.cuts_ms: list[int] = []
        self.frames = 0
        self.detector_runs = 0

    def push(self, tick: Tick) -> Iterator[ClipResult]:
        """Add the next tick; yield the clips it completes."""
        self.frames += 1
        with self._clock("shots"):
            is_cut = self._cuts.is_cut(tick.frame.luma_scaled(LUMA_SIDE))
        jumped = self._last_tick is not None and tick.number > self._last_tick + 1
        if self._scanner is None or is_cut or jumped:
            yield from self.flush()
            self._start_shot(tick)
        self._last_tick = tick.number
        assert self._scanner is not None
        with self._clock("detect"):
            scanned = list(self._scanner.push(tick))
        yield from self._collect(scanned)

    def flush(self) -> Iterator[ClipResult]:
        """Yield the clips that the end of the shot completes."""
        if self._scanner is None or self._cutter is None:
            return
        with self._clock("detect"):
            scanned = list(self._scanner.flush())
        yield from self._collect(scanned)
        for clip in self._cutter.flush():
            yield self._finisher.finish(clip)
        self.detector_runs += self._scanner.detector_runs
        self._scanner = self._cutter = None

    def _start_shot(self, tick: Tick) -> None:
        self._shot += 1
        ms = self._finisher.clip_ms(tick.time_us)
        start, end = self._core_ms()
        if start <= ms < end:
            self.cuts_ms.append(ms)
        config = self._config
        self._scanner = Scanner(self._detector, config.detect, config.track, FPS)
        core = (self._tick_at(self._chunk.start_s), self._tick_at(self._chunk.end_s))
        self._cutter = ClipCutter(config.tube, self._shot, FPS, self._gap, core)

    def _collect(self, scanned: Iterable[Scanned]) -> Iterator[ClipResult]:
        assert self._cutter is not None
        for one in scanned:
            with self._clock("buffer"):
                clips = list(self._cutter.push(one))
            for clip in clips:
                yield self._finisher.finish(clip)

    def _tick_at(self, time_s: float | None) -> int | None:
        if time_s is None:
            return None
        return round((time_s * 1e6 - self._chunk.origin_us) * FPS / 1e6)

    def _core_ms(self) -> tuple[float, float]:
        start, end = self._chunk.start_s, self._chunk.end_s
        return (
            -np.inf if start is None else self._finisher.clip_ms(round(start * 1e6)),
            np.inf if end is None else self._finisher.clip_ms(round(end * 1e6)),
        )
