"""The one fused task: a chunk of a source in, finished clips out, every frame decoded once.

Runs inside a process that can be killed (`preprocessing.sandbox.isolate`) and yields each clip as
soon as it is encoded, so that what was done before a crash is not lost.
"""

import base64
import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import av
import numpy as np

from preprocessing.chunk.clips import Clip, ClipCutter
from preprocessing.chunk.filters import judge
from preprocessing.chunk.scan import Scanned, Scanner
from preprocessing.chunk.score import FrameScores, score_clip
from preprocessing.chunk.shots import LUMA_SIDE, CutFinder
from preprocessing.chunk.thumbnail import contact_strip
from preprocessing.chunk.tube import cut, stored_size
from preprocessing.config import DetectConfig, PreprocessConfig
from preprocessing.dataset.duplicates import signature_of
from preprocessing.decode import Tick, open_video, resample
from preprocessing.encode.clip_encoder import encode_clip
from preprocessing.faces import Detector, make_detector
from preprocessing.geometry import crop_affine, transform_boxes
from preprocessing.heartbeat import heartbeat
from preprocessing.storage.remote_file import open_location
from preprocessing.storage.sample import SampleArrays, pack_arrays

#: Frames per second of every clip.
FPS = 25.0


@dataclass(frozen=True)
class Chunk:
    """A stretch of one source that one task works on."""

    # Path or URL to open.
    location: str
    # The source as it is named in the data set.
    source: str
    # Checksum of the source's bytes; names its samples.
    sha256: str
    licence: str
    # Number of the chunk within the source.
    number: int
    # Time of the source's first frame in microseconds: the origin of the clock.
    origin_us: int
    # Clips that begin in [start_s, end_s) belong to this chunk; None for the source's own ends.
    start_s: float | None = None
    end_s: float | None = None
    # Key frame to decode from, with its frame number, and where to stop.
    decode_from_s: float | None = None
    decode_from_index: int | None = None
    decode_to_s: float | None = None
    # Estimated length in seconds, for time limits and progress.
    seconds: float = 0.0
    # Size and time stamp of the source when it was found; "" where it is not to be compared.
    size: int = -1
    stamp: str = ""


@dataclass(frozen=True, eq=False)
class ClipResult:
    """A clip as it leaves the task; `mp4` and `npz` are empty where it is dropped."""

    row: dict[str, Any]
    mp4: bytes
    npz: bytes
    # A strip of three frames as JPEG, for the report.
    strip: bytes


@dataclass(frozen=True)
class ChunkEnd:
    """What a task says last."""

    # Times of cuts inside the chunk's own stretch, in milliseconds from the source's first frame.
    cuts_ms: tuple[int, ...]
    # Frames on the 25 fps clock, and how often the detector ran.
    frames: int
    looks: int
    # Undecodable stretches: (start_s, end_s, reason, detail).
    damage: tuple[tuple[float, float, str, str], ...]
    # Seconds spent by stage.
    stages: dict[str, float] = field(default_factory=dict)


def process_chunk(chunk: Chunk, config: PreprocessConfig) -> Iterator[Any]:
    """Yield a chunk's clips (ClipResult), kept and dropped, then one ChunkEnd.

    Its heartbeats say the time reached, in microseconds.

    Raises DecodeError where the source yields nothing.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    clock = _Stopwatch()
    with clock("load"):
        detector = _detector(config.detect)
    with open_video(open_location(chunk.location), config.decode.backend, fall_back=True) as reader:
        worker = _ChunkWorker(chunk, config, detector, clock)
        frames = reader.frames(chunk.decode_from_s, chunk.decode_to_s, chunk.decode_from_index)
        ticks = resample(frames, FPS, origin_us=chunk.origin_us)
        for tick in clock.each("decode", ticks):
            heartbeat(tick.time_us)
            yield from worker.push(tick)
        yield from worker.flush()
        yield ChunkEnd(
            cuts_ms=tuple(worker.cuts_ms),
            frames=worker.frames,
            looks=worker.looks,
            damage=tuple((d.start_s, d.end_s, d.reason, d.detail) for d in reader.damage),
            stages=clock.seconds(),
        )


@lru_cache(maxsize=1)
def _detector(config: DetectConfig) -> Detector:
    return make_detector(config.name, config.model_dir, config.size, config.threshold)


class _ChunkWorker:
    """Shots, tracks and clips of one chunk, fed tick by tick."""

    def __init__(
        self, chunk: Chunk, config: PreprocessConfig, detector: Detector, clock: "_Stopwatch"
    ) -> None:
        self._chunk = chunk
        self._config = config
        self._detector = detector
        self._clock = clock
        self._cuts = CutFinder(config.shots)
        self._shot = -1
        self._last_tick: int | None = None
        self._scanner: Scanner | None = None
        self._cutter: ClipCutter | None = None
        self._gap = max(1, round(config.track.gap_s * FPS))
        self.cuts_ms: list[int] = []
        self.frames = 0
        self.looks = 0

    def push(self, tick: Tick) -> Iterator[ClipResult]:
        """Take the next tick; yield clips that are complete."""
        self.frames += 1
        with self._clock("shots"):
            is_cut = self._cuts.is_cut(tick.frame.luma_scaled(LUMA_SIDE))
        jumped = self._last_tick is not None and tick.number > self._last_tick + 1
        if self._scanner is None or is_cut or jumped:
            yield from self.flush()
            self._begin_shot(tick)
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
            yield self._finish(clip)
        self.looks += self._scanner.looks
        self._scanner = self._cutter = None

    def _begin_shot(self, tick: Tick) -> None:
        self._shot += 1
        ms = self._ms(tick.time_us)
        start, end = self._core_ms()
        if start <= ms < end:
            self.cuts_ms.append(ms)
        config = self._config
        self._scanner = Scanner(self._detector, config.detect, config.track, FPS)
        core = tuple(
            None if s is None else round((s * 1e6 - self._chunk.origin_us) * FPS / 1e6)
            for s in (self._chunk.start_s, self._chunk.end_s)
        )
        self._cutter = ClipCutter(config.tube, self._shot, FPS, self._gap, core)  # type: ignore[arg-type]

    def _collect(self, scanned: Iterable[Scanned]) -> Iterator[ClipResult]:
        assert self._cutter is not None
        for one in scanned:
            with self._clock("keep"):
                clips = list(self._cutter.push(one))
            for clip in clips:
                yield self._finish(clip)

    def _finish(self, clip: Clip) -> ClipResult:
        heartbeat()
        config = self._config
        with self._clock("score"):
            scores, per_frame = score_clip(clip, FPS)
        size = stored_size(clip.tube, config.tube)
        row = self._row(clip, scores, size)
        reason = (
            "too_short"
            if len(clip.moments) < config.tube.min_frames
            else judge(row, config.filters)
        )
        with self._clock("report"):
            strip = contact_strip(clip, size)
        if reason is not None:
            return ClipResult({**row, "status": "dropped", "reason": reason}, b"", b"", strip)
        with self._clock("encode"):
            mp4 = encode_clip(self._pictures(clip, size), FPS, config.encode)
        with self._clock("identity"):
            identity = self._identity(clip)
        npz = pack_arrays(_arrays(clip, per_frame, size, identity))
        row |= {
            "status": "kept",
            "reason": "",
            "mp4_sha256": hashlib.sha256(mp4).hexdigest(),
            "npz_sha256": hashlib.sha256(npz).hexdigest(),
            "descriptor": base64.b64encode(identity.astype(np.float16).tobytes()).decode(),
            "signature": base64.b64encode(
                signature_of(per_frame.faces, clip.bbox).to_bytes()
            ).decode(),
        }
        return ClipResult(row, mp4, npz, strip)

    def _pictures(self, clip: Clip, size: int) -> Iterator[av.VideoFrame]:
        latest: tuple[int, av.VideoFrame] | None = None
        for moment in clip.moments:
            if latest is None or latest[0] != moment.src_frame:
                heartbeat()
                latest = (moment.src_frame, cut(moment.part, clip.tube, clip.frame_hw, size))
            yield latest[1]

    def _row(self, clip: Clip, scores: Mapping[str, float | None], size: int) -> dict[str, Any]:
        moments = clip.moments
        start_ms = self._ms(moments[0].time_us)
        return {
            "start_ms": start_ms,
            "end_ms": start_ms + round(len(moments) * 1000 / FPS),
            "frames": len(moments),
            "fps": FPS,
            "duration_s": len(moments) / FPS,
            "size": size,
            "tube_px": int(clip.tube[2] - clip.tube[0]),
            "track": clip.track,
            **scores,
        }

    def _identity(self, clip: Clip) -> np.ndarray:
        """Return the mean descriptor of the face over a few frames that show it best."""
        if not self._detector.recognises:
            return np.zeros(0, dtype=np.float32)
        from preprocessing.decode import Frame

        picks = np.unique(np.linspace(0, len(clip.moments) - 1, 3).round().astype(int))
        total: np.ndarray | None = None
        for index in picks:
            part = clip.moments[index].part
            picture = Frame(part.picture, pts_us=0, index=0).rgb()
            points = (clip.landmarks[index] - [part.x0, part.y0]) / part.shrink
            descriptor = self._detector.embed(picture, points.astype(np.float32))
            total = descriptor if total is None else total + descriptor
        assert total is not None
        return (total / max(float(np.linalg.norm(total)), 1e-9)).astype(np.float32)

    def _ms(self, time_us: int) -> int:
        return round((time_us - self._chunk.origin_us) / 1000)

    def _core_ms(self) -> tuple[float, float]:
        start, end = self._chunk.start_s, self._chunk.end_s
        return (
            -np.inf if start is None else self._ms(round(start * 1e6)),
            np.inf if end is None else self._ms(round(end * 1e6)),
        )


def _arrays(clip: Clip, per_frame: FrameScores, size: int, identity: np.ndarray) -> SampleArrays:
    affine = crop_affine(clip.tube, size)
    landmarks = clip.landmarks @ affine[:, :2].T + affine[:, 2]
    return SampleArrays(
        bbox=clip.bbox,
        bbox_crop=transform_boxes(clip.bbox, affine),
        landmarks=landmarks,
        pose=per_frame.pose,
        sharpness=per_frame.sharpness,
        flags=per_frame.flags,
        pts_us=np.array([m.pts_us for m in clip.moments]),
        src_frame=np.array([m.src_frame for m in clip.moments]),
        src_to_crop=affine,
        identity=identity,
    )


class _Stopwatch:
    """Adds up wall time by stage."""

    def __init__(self) -> None:
        self._spent: Counter[str] = Counter()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._spent[stage] += time.perf_counter() - began  # type: ignore[assignment]

    def each(self, stage: str, items: Iterable[Tick]) -> Iterator[Tick]:
        """Yield items, counting the time it takes to get each."""
        source = iter(items)
        while True:
            with self(stage):
                item = next(source, None)
            if item is None:
                return
            yield item

    def seconds(self) -> dict[str, float]:
        return {stage: float(spent) for stage, spent in sorted(self._spent.items())}
