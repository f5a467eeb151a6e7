"""Makes whole pictures of interlaced ones, whose odd and even lines are of different moments."""

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

import av
import av.error
import av.filter

from preprocessing.decode.frame import Frame

# One picture out for one picture in, and only where the source says that it is interlaced: yadif
# keeps the lines of one moment and makes up the others from their neighbours in space and time.
_SETTINGS = "mode=send_frame:parity=auto:deint=interlaced"


def deinterlaced(frames: Iterator[Frame]) -> Iterator[Frame]:
    """Yield the same frames, interlaced ones with a picture of a single moment.

    A picture that is not interlaced passes untouched, and costs nothing before the first that is.
    From there on every frame waits for the next one, which its missing lines are made up from.
    """
    weaver: _Weaver | None = None
    for frame in frames:
        if weaver is not None and not weaver.fits(frame.video_frame):
            yield from weaver.flush()
            weaver = None
        if weaver is None and frame.video_frame.interlaced_frame:
            weaver = _Weaver(frame.video_frame)
        if weaver is None:
            yield frame
        else:
            yield from weaver.push(frame)
    if weaver is not None:
        yield from weaver.flush()


class _Weaver:
    """A filter for pictures of one size and format, and the frames that wait in it."""

    def __init__(self, picture: av.VideoFrame) -> None:
        self._shape = _shape_of(picture)
        self._waiting: deque[Frame] = deque()
        self._graph = av.filter.Graph()
        source = self._graph.add_buffer(
            width=picture.width,
            height=picture.height,
            format=picture.format,
            time_base=picture.time_base,
        )
        yadif = self._graph.add("yadif", _SETTINGS)
        sink = self._graph.add("buffersink")
        source.link_to(yadif)
        yadif.link_to(sink)
        self._graph.configure()

    def fits(self, picture: av.VideoFrame) -> bool:
        return _shape_of(picture) == self._shape

    def push(self, frame: Frame) -> Iterator[Frame]:
        self._waiting.append(frame)
        self._graph.vpush(frame.video_frame)
        yield from self._ready()

    def flush(self) -> Iterator[Frame]:
        self._graph.vpush(None)
        yield from self._ready()

    def _ready(self) -> Iterator[Frame]:
        while self._waiting:
            try:
                picture = self._graph.vpull()
            except (BlockingIOError, av.error.EOFError):
                return
            yield replace(self._waiting.popleft(), video_frame=picture)


def _shape_of(picture: av.VideoFrame) -> tuple[int, int, str]:
    return picture.width, picture.height, picture.format.name
