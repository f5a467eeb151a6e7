"""Interface of all decoders: stream facts, frames in order, and frames by number."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from preprocessing.decode.failure import DamagedSpan
from preprocessing.decode.frame import Frame
from preprocessing.decode.pixels.colour import Colour


@dataclass(frozen=True)
class VideoInfo:
    """Facts about a video stream, from its first decoded frame and, where marked, its header.

    Header values are claims of the file; only decoding tells how many frames there are.
    """

    # Displayed size in pixels: upright, with square pixels.
    width: int
    height: int
    # Size of the coded frame.
    coded_width: int
    coded_height: int
    # Header: average frames per second; 0.0 where absent.
    fps: float
    # Header: length in seconds, or None.
    duration_s: float | None
    # Time of the first decoded frame on the source's own timeline, in microseconds.
    start_us: int
    # FFmpeg's names of codec and pixel format.
    codec: str
    pixel_format: str
    # Bits of a luma sample.
    bit_depth: int
    # Clockwise rotation in degrees from the display matrix; already applied to frames.
    rotation: int
    # Whether the display matrix mirrors; already applied to frames.
    mirrored: bool
    # Width over height of a coded pixel; already applied to frames.
    sample_aspect: float
    # Colour metadata; already applied to RGB.
    colour: Colour
    # Whether the first frame consists of two fields.
    interlaced: bool
    # FFmpeg's name of the container.
    container: str


class VideoReader(Protocol):
    """A source open for decoding, for one thread; a context manager."""

    @property
    def info(self) -> VideoInfo:
        """Facts about the video stream."""

    @property
    def damage(self) -> Sequence[DamagedSpan]:
        """Damaged spans met by the latest `frames()`; complete once that is exhausted."""

    def frames(
        self,
        start_s: float | None = None,
        end_s: float | None = None,
        index_at_start: int | None = None,
    ) -> Iterator[Frame]:
        """Yield frames whose pts is in [start_s, end_s) in order of time, in constant memory.

        Damaged spans are skipped and reported in `damage`.

        Args:
            start_s: Start in seconds; None for the start of the source.
            end_s: End in seconds; None for the end of the source.
            index_at_start: Number of the first frame at or after `start_s`, where known; else the
                reader scans the packets before it once.
        """

    def frames_at(self, indices: Sequence[int]) -> np.ndarray:
        """Return the frames of these numbers, in this order, as RGB uint8 [T, height, width, 3].

        Raises:
            IndexError: A number is beyond the last frame.
            DecodeError: The frames differ in size.
        """

    def frame_at_time(self, time_s: float) -> Frame:
        """Return the last frame whose pts is at or before `time_s` seconds, or the first frame."""

    def close(self) -> None:
        """Close the source."""

    def __enter__(self) -> "VideoReader": ...

    def __exit__(self, *exc_info: object) -> None: ...
