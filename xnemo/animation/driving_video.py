"""A video file as driving frames that can be iterated more than once."""

import os
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from preprocessing.decode import DecodeError, open_video, resample
from preprocessing.errors import UserError

# Headers of screen recordings and streams may claim any rate; faces need no more than this.
_HIGHEST_FPS = 60.0
_FALLBACK_FPS = 25.0

# A recording of a still screen may have no frame for seconds; the last frame is held up to this
# long, so that motion stays in time with the audio. A longer gap is taken for a broken time stamp.
_LONGEST_HOLD_S = 30.0


class DrivingVideo:
    """Frames of a video at a constant rate, decoded again at every iteration and never held.

    Args:
        path: The file.
        fps: Frames per second to resample to; None keeps the source's rate.
        max_frames: Most frames to yield; None reads to the end.

    Raises:
        UserError: The file cannot be decoded. Iteration raises it too, where the file is truncated.
    """

    def __init__(
        self, path: str | os.PathLike[str], fps: float | None = None, max_frames: int | None = None
    ) -> None:
        if fps is not None and not 0 < fps <= _HIGHEST_FPS:
            raise UserError(f"fps = {fps}", f"use a rate up to {_HIGHEST_FPS:g}")
        if max_frames is not None and max_frames < 1:
            raise UserError(f"max_frames = {max_frames}", "use 1 or more")
        self.path = Path(path)
        self.max_frames = max_frames
        try:
            with open_video(self.path) as video:
                info = video.info
        except DecodeError as error:
            raise _as_user_error(self.path, error) from error
        own = info.fps if 0 < info.fps <= _HIGHEST_FPS else _FALLBACK_FPS
        # Rate of the frames yielded.
        self.fps = float(fps or own)
        # Time of the first frame on the file's time line, to align audio with.
        self.start_s = info.start_us / 1e6

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Yield RGB uint8 (height, width, 3) frames."""
        return islice(self._decode(), self.max_frames)

    def _decode(self) -> Iterator[NDArray[np.uint8]]:
        try:
            with open_video(self.path) as video:
                frames = video.frames()
                first = next(frames, None)
                if first is None:
                    return
                alone = True
                every = chain([first], frames)
                for tick in resample(every, self.fps, max_gap_s=_LONGEST_HOLD_S):
                    alone = False
                    yield tick.frame.rgb()
                if alone:
                    # A single frame cannot be resampled, but is a valid driving video.
                    yield first.rgb()
        except DecodeError as error:
            raise _as_user_error(self.path, error) from error


def _as_user_error(path: Path, error: DecodeError) -> UserError:
    return UserError(
        f"{path} cannot be read as a video ({error.reason}): {error.detail}",
        "give a video file that plays",
    )
