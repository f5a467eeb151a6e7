"""Facts of a source before it is processed: checksum, length, key frames."""

import hashlib
from dataclasses import dataclass

import numpy as np

from preprocessing.decode.failure import DecodeError
from preprocessing.decode.pyav.reader import PyavReader
from preprocessing.decode.reader import VideoInfo
from preprocessing.decode.source import DecodeLimits, Source, open_bytes
from preprocessing.decode.timeline import MICROSECONDS, Timeline
from preprocessing.heartbeat import heartbeat

_HASH_PIECE = 1 << 20
# Key frames closer than this are not listed; an all-intra file has one at every frame.
_KEY_SPACING_US = MICROSECONDS
# Frame distances may differ by this share of the usual one before the rate counts as variable;
# millisecond containers round 33.37 to 33 or 34, and one late frame is not a variable rate.
_STEADY_WITHIN = 0.1
_STEADY_SHARE = 0.98


@dataclass(frozen=True)
class KeyFrame:
    """A frame at which decoding can start."""

    # Presentation time in microseconds on the source's time line.
    time_us: int
    # Number of this frame among all frames of the source.
    index: int


@dataclass(frozen=True)
class SourceFacts:
    """What a plan needs to know of one readable source."""

    # Facts of the video stream.
    info: VideoInfo
    # SHA-256 of the file's bytes, in hexadecimal.
    sha256: str
    # Size of the file.
    size_bytes: int
    # Number of packets that show an image; decoding may give fewer frames.
    frames: int
    # Time at which the last frame leaves the screen, by packets, in microseconds.
    end_us: int
    # Frames per second by time stamps, not by header; 0.0 for a single frame.
    fps: float
    # True where the distance between frames varies.
    is_vfr: bool
    # Where the source can be cut, at least a second apart, in order of time.
    key_frames: tuple[KeyFrame, ...]

    @property
    def duration_s(self) -> float:
        """Length in seconds by time stamps."""
        return max(0, self.end_us - self.info.start_us) / MICROSECONDS


def probe(source: Source, limits: DecodeLimits | None = None) -> SourceFacts:
    """Probe a source: decode its first frame, read all packets once, hash its bytes.

    Costs two sequential reads and 16 bytes of memory a frame. Run it in the sandbox, as a
    hostile file can hang or crash already here.

    Raises:
        DecodeError: the source cannot be read.
    """
    sha256, size = content_id(source)
    with PyavReader(source, limits) as reader:
        timeline = reader.timeline
        info = reader.info
    times = timeline.pts_us
    if len(times) == 0:
        # Elementary streams carry no times; the reader counts frames at the nominal rate.
        with PyavReader(source, limits) as reader:
            times = np.array([frame.pts_us for frame in reader.frames()], dtype=np.int64)
        timeline = Timeline(times, np.zeros(1, dtype=np.int64), is_exact=False)
    if len(times) == 0:
        raise DecodeError("no_frames", "the video stream has no frames")
    steps = np.diff(times)
    usual = float(np.median(steps)) if len(steps) else 0.0
    span = int(times[-1] - times[0])
    steady = np.abs(steps - usual) <= max(_STEADY_WITHIN * usual, 1001.0)
    nominal_us = MICROSECONDS / info.fps if info.fps else 40_000.0
    return SourceFacts(
        info=info,
        sha256=sha256,
        size_bytes=size,
        frames=len(times),
        end_us=int(times[-1]) + round(usual or nominal_us),
        fps=len(steps) * MICROSECONDS / span if span else 0.0,
        is_vfr=bool(len(steps) and steady.mean() < _STEADY_SHARE),
        key_frames=_spaced_keys(timeline),
    )


def content_id(source: Source) -> tuple[str, int]:
    """Return the SHA-256 in hexadecimal and the size in bytes of a source."""
    digest, size = hashlib.sha256(), 0
    stream = open_bytes(source)
    try:
        while piece := stream.read(_HASH_PIECE):
            digest.update(piece)
            size += len(piece)
            heartbeat()
    finally:
        if stream is not source:
            stream.close()
    return digest.hexdigest(), size


def _spaced_keys(timeline: Timeline) -> tuple[KeyFrame, ...]:
    if not timeline.is_exact:
        # Frames cannot be numbered from packets, so a cut would number them again: offer none.
        first = int(timeline.pts_us[0])
        return (KeyFrame(first, 0),)
    kept: list[KeyFrame] = []
    for index in timeline.key_indices:
        time_us = int(timeline.pts_us[index])
        if not kept or time_us - kept[-1].time_us >= _KEY_SPACING_US:
            kept.append(KeyFrame(time_us, int(index)))
    return tuple(kept)
