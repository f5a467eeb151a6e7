"""Deinterlacing by FFmpeg's `bwdif` filter.

`bwdif` takes 1.7 ms for a 1080p frame where `yadif` takes 4.3 (one core of an EPYC).
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

import av
import av.error
import av.filter

from preprocessing.decode.frame import Frame

# One frame out per frame in, and only where the frame is marked as interlaced: the filter keeps
# the lines of one field and interpolates the others in space and time.
_SETTINGS = "mode=send_frame:parity=auto:deint=interlaced"
# The filter requires at least 4 lines in every plane.
_LEAST_SIDE = 16


def deinterlaced(frames: Iterator[Frame]) -> Iterator[Frame]:
    """Yield the same frames, interlaced ones as progressive frames of one field's time.

    Progressive frames pass unchanged, and at no cost before the first interlaced one. From there on
    every frame waits for the next one, which the interpolation reads.
    """
    deinterlacer: _Deinterlacer | None = None
    for frame in frames:
        if deinterlacer is not None and not deinterlacer.fits(frame.video_frame):
            yield from deinterlacer.flush()
            deinterlacer = None
        if deinterlacer is None and _needs_filter(frame.video_frame):
            deinterlacer = _Deinterlacer(frame.video_frame)
        if deinterlacer is None:
            yield frame
        else:
            yield from deinterlacer.push(frame)
    if deinterlacer is not None:
        yield from deinterlacer.flush()


class _Deinterlacer:
    """Filter graph for frames of one size and format, and the frames queued in it."""

    def __init__(self, first: av.VideoFrame) -> None:
        self._shape = _shape_of(first)
        self._queued: deque[Frame] = deque()
        self._graph = av.filter.Graph()
        source = self._graph.add_buffer(
            width=first.width,
            height=first.height,
            format=first.format,
            time_base=first.time_base,
        )
        bwdif = self._graph.add("bwdif", _SETTINGS)
        sink = self._graph.add("buffersink")
        source.link_to(bwdif)
        bwdif.link_to(sink)
        self._graph.configure()

    def fits(self, frame: av.VideoFrame) -> bool:
        return _shape_of(frame) == self._shape

    def push(self, frame: Frame) -> Iterator[Frame]:
        self._queued.append(frame)
        self._graph.vpush(frame.video_frame)
        yield from self._ready()

    def flush(self) -> Iterator[Frame]:
        self._graph.vpush(None)
        yield from self._ready()

    def _ready(self) -> Iterator[Frame]:
        while self._queued:
            try:
                filtered = self._graph.vpull()
            except (BlockingIOError, av.error.EOFError):
                return
            yield replace(self._queued.popleft(), video_frame=filtered)


def _needs_filter(frame: av.VideoFrame) -> bool:
    return bool(frame.interlaced_frame) and min(frame.width, frame.height) >= _LEAST_SIDE


def _shape_of(frame: av.VideoFrame) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name
