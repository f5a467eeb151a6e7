"""A video file as driving frames that can be gone through as often as needed."""

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from preprocessing.decode import DecodeError, open_video, resample
from preprocessing.errors import UserError

# Headers of screen recordings and streams claim anything; faces need no more than this.
_HIGHEST_FPS = 60.0
_FALLBACK_FPS = 25.0

# A recording of a still screen may have no frame for seconds; what was seen last is held so long,
# so that motion stays in time with its sound. Beyond it a time stamp is taken to be broken.
_LONGEST_HOLD_S = 30.0


class DrivingVideo:
    """Frames of a video at a constant rate, decoded anew at every pass and never held.

    Args:
        path: The file.
        fps: Frames per second to resample to; None keeps the source's own rate.
        max_frames: Stop after so many frames; None reads to the end.

    Raises:
        UserError: The file cannot be decoded. Passes raise it too, should the file be cut short.
    """

    def __init__(
        self, path: str | Path, fps: float | None = None, max_frames: int | None = None
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
        # Rate of the frames that come out.
        self.fps = float(fps or own)
        # Time of the first frame on the file's own time line, to line sound up with.
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
                whole = chain([first], frames)
                for tick in resample(whole, self.fps, max_gap_s=_LONGEST_HOLD_S):
                    alone = False
                    yield tick.frame.rgb()
                if alone:
                    # One frame has no neighbour to be resampled with, and is a driver all the same.
                    yield first.rgb()
        except DecodeError as error:
            raise _as_user_error(self.path, error) from error


def _as_user_error(path: Path, error: DecodeError) -> UserError:
    return UserError(
        f"{path} cannot be read as a video ({error.reason}): {error.detail}",
        "give a video file that plays",
    )
