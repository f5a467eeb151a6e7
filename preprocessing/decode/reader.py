"""What every decoder offers: facts about a source, its frames in order, and frames by number."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from preprocessing.decode.failure import DamagedSpan
from preprocessing.decode.frame import Frame
from preprocessing.decode.pixels.colour import Colour


@dataclass(frozen=True)
class VideoInfo:
    """Facts about a video stream, read from its first decoded frame and, where marked, its header.

    Header values are what the file claims; only decoding tells how many frames there are.
    """

    # Displayed size in pixels: upright, with square pixels.
    width: int
    height: int
    # Size of the coded picture.
    coded_width: int
    coded_height: int
    # Header: average frames per second; 0.0 where it does not say.
    fps: float
    # Header: length in seconds, or None.
    duration_s: float | None
    # Time of the first decoded frame on the source's own time line.
    start_us: int
    # FFmpeg's names of codec and pixel format.
    codec: str
    pixel_format: str
    # Bits of a luma sample.
    bit_depth: int
    # Clockwise turn in degrees that the source asks for; already applied to frames.
    rotation: int
    # True where the source asks to be mirrored; already applied to frames.
    mirrored: bool
    # Width over height of a coded pixel; already applied to frames.
    sample_aspect: float
    # What the numbers mean as colour; already applied to RGB.
    colour: Colour
    # True where the first frame is made of two fields.
    interlaced: bool
    # Container's name, as FFmpeg spells it.
    container: str


class VideoReader(Protocol):
    """A source open for decoding. Single-threaded; close it, or use it in a `with`."""

    @property
    def info(self) -> VideoInfo:
        """Facts about the video stream."""

    @property
    def damage(self) -> Sequence[DamagedSpan]:
        """Spans found undecodable by the latest `frames()`, complete once it is exhausted."""

    def frames(
        self,
        start_s: float | None = None,
        end_s: float | None = None,
        index_at_start: int | None = None,
    ) -> Iterator[Frame]:
        """Yield frames in order of time whose pts is in [start_s, end_s), in constant memory.

        Damaged stretches are skipped and told in `damage`. Frame numbers count from the start of
        the source; pass `index_at_start`, the number of the first frame at or after `start_s`,
        where a plan knows it, else the reader scans the packets before it once.
        """

    def frames_at(self, indices: Sequence[int]) -> np.ndarray:
        """Return the frames of these numbers, in this order, as RGB uint8 [T, height, width, 3].

        Raises IndexError beyond the last frame, DecodeError where frames differ in size.
        """

    def frame_at_time(self, time_s: float) -> Frame:
        """Return the frame on screen at `time_s`: the last whose pts is at or before it.

        A time before the first frame gives the first.
        """

    def close(self) -> None:
        """Let go of the file."""

    def __enter__(self) -> "VideoReader": ...

    def __exit__(self, *exc_info: object) -> None: ...
