"""A video file as driving frames that can be iterated more than once."""

import math
import os
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray

from preprocessing.decode import DecodeError, Frame, resample
from preprocessing.decode.pyav.reader import PyavReader
from preprocessing.errors import UserError

# Faces need no more; a higher rate is divided until it fits. A hundredth above it is the same rate
# measured by another clock (60.12).
_HIGHEST_FPS = 60.0
_TOLERANCE = 0.01
_FALLBACK_FPS = 25.0

# A recording of a still screen may have no frame for minutes; the last frame is held up to this
# long, so that motion stays in time with the audio. A longer gap is taken for a broken time stamp.
_LONGEST_HOLD_S = 120.0


class DrivingVideo:
    """Frames of a video at a constant rate, decoded again at every iteration and never held.

    Args:
        path: The file.
        fps: Frames per second to resample to; None keeps the source's own rhythm.
        max_frames: Most frames to yield; None reads to the end.

    Raises:
        UserError: The file cannot be decoded. Iteration raises it too, where the file is truncated.
    """

    def __init__(
        self, path: str | os.PathLike[str], fps: float | None = None, max_frames: int | None = None
    ) -> None:
        if fps is not None and not 0 < fps <= _HIGHEST_FPS * (1 + _TOLERANCE):
            raise UserError(f"fps = {fps}", f"use a rate up to {_HIGHEST_FPS:g}")
        if max_frames is not None and max_frames < 1:
            raise UserError(f"max_frames = {max_frames}", "use 1 or more")
        self.path = Path(path)
        self.max_frames = max_frames
        try:
            with PyavReader(self.path) as video:
                info = video.info
                times_us = video.timeline.pts_us
        except DecodeError as error:
            raise _as_user_error(self.path, error) from error
        # Rate of the frames yielded: exactly the one that `encode_clip` writes.
        rate = fps or own_rate(times_us, info.fps, info.interlaced)
        self.fps = float(Fraction(rate).limit_denominator(1001))
        # Time of the first frame on the file's time line, to align audio with.
        self.start_s = info.start_us / 1e6

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Yield RGB uint8 (height, width, 3) frames."""
        return islice(self._decode(), self.max_frames)

    def _decode(self) -> Iterator[NDArray[np.uint8]]:
        try:
            with PyavReader(self.path) as video:
                frames = video.frames()
                last = next(frames, None)
                if last is None:
                    return
                count, size = 0, (last.width, last.height)
                for tick in resample(chain([last], frames), self.fps, max_gap_s=_LONGEST_HOLD_S):
                    yield _fitted(tick.frame, size)
                    last, count = tick.frame, count + 1
                # A single frame has no neighbour to resample with, and the last one of an MP4 may
                # be shown for long.
                for _ in range(max(self._frames_promised(video, last) - count, not count)):
                    yield _fitted(last, size)
        except DecodeError as error:
            raise _as_user_error(self.path, error) from error

    def _frames_promised(self, video: PyavReader, last: Frame) -> int:
        """Return the frames until the last one ends, or 0 where the file does not say."""
        info = video.info
        if "mp4" not in info.container or info.duration_s is None or video.damage:
            return 0
        hold_s = info.duration_s - (last.pts_us - info.start_us) / 1e6
        return round(info.duration_s * self.fps) if hold_s <= _LONGEST_HOLD_S else 0


def own_rate(times_us: NDArray[np.int64], header: float = 0.0, interlaced: bool = False) -> float:
    """Return a recording's own rate in Hz, at most 60, from the times of its frames.

    It is the rate of the parts that move: pauses, in which a recorder writes no frame, and lost
    frames do not count. Rates above 60 are divided by a whole number, so that frames stay evenly
    spaced.

    Args:
        times_us: Presentation times in microseconds, sorted.
        header: Rate in the file's header, used where the times agree with it within 2 %, because
            containers round times; 0 where absent.
        interlaced: Whether frames consist of two fields, which some files store as two packets.
    """
    steps = np.diff(times_us)
    steps = steps[steps > 0]
    rate = header or _FALLBACK_FPS
    if len(steps):
        short = np.quantile(steps, 0.2)
        measured = 1e6 / float(steps[steps <= 1.5 * short].mean())
        known = (header, 2 * header) if interlaced else (header,)
        agree = any(0.98 < measured / claim < 1.02 for claim in known if claim > 0)
        rate = header if agree else measured
    return rate / math.ceil(rate / (_HIGHEST_FPS * (1 + _TOLERANCE)))


def _fitted(frame: Frame, size_wh: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a frame at the size of the video's first one, with bars where its shape differs."""
    image: NDArray[np.uint8] = frame.rgb()
    if (frame.width, frame.height) == size_wh:
        return image
    return np.asarray(PIL.ImageOps.pad(PIL.Image.fromarray(image), size_wh))


def _as_user_error(path: Path, error: DecodeError) -> UserError:
    return UserError(
        f"{path} cannot be read as a video ({error.reason}): {error.detail}",
        "give a video file that plays",
    )
