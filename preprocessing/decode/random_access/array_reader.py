"""Base of random-access backends: refuses sources they decode wrongly, reads frames by number."""

import bisect
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from preprocessing.decode.failure import BackendRefusalError, DamagedSpan, DecodeError
from preprocessing.decode.frame import Frame, frame_from_rgb
from preprocessing.decode.pyav.reader import PyavReader
from preprocessing.decode.reader import VideoInfo
from preprocessing.decode.source import DecodeLimits, Source
from preprocessing.decode.timeline import MICROSECONDS, Timeline


class ArrayReader:
    """A reader over a backend that maps frame numbers to RGB arrays.

    The reference reader reads headers and packets first. Kinds that the backend is known to decode
    wrongly are refused, as are sources where the two count different numbers of frames. Damage
    raises.
    """

    # Name for messages.
    name: ClassVar[str]
    # Codecs it decodes correctly.
    codecs: ClassVar[frozenset[str]]
    # Colour matrices it applies when tagged, at limited range.
    matrices: ClassVar[frozenset[str]] = frozenset({"601"})
    # Whether it applies rotation tags itself.
    rotates: ClassVar[bool] = False
    # Whether seeking finds frames stored after the key frame they are shown before.
    seeks_open_groups: ClassVar[bool] = False

    def __init__(self, source: Source, limits: DecodeLimits | None = None) -> None:
        reference = PyavReader(source, limits)
        self.info: VideoInfo = reference.info
        timeline = reference.timeline
        self._times_us = timeline.pts_us
        self._keys = frozenset(int(index) for index in timeline.key_indices)
        reasons = self._unsupported(timeline)
        if reasons:
            self._refuse("; ".join(reasons))
        try:
            count = self._open_backend(source)
        except DecodeError:
            raise
        except Exception as error:
            raise BackendRefusalError("unsupported", f"{self.name}: {error}") from error
        if count != len(self._times_us):
            self._refuse(f"counts {count} frames where the packets show {len(self._times_us)}")

    @property
    def damage(self) -> Sequence[DamagedSpan]:
        """Always empty: a damaged source raises instead."""
        return ()

    def frames(
        self,
        start_s: float | None = None,
        end_s: float | None = None,
        index_at_start: int | None = None,
    ) -> Iterator[Frame]:
        """Yield frames in [start_s, end_s) in order; see `VideoReader.frames`."""
        first = 0 if start_s is None else self._first_at(start_s)
        last = len(self._times_us) if end_s is None else self._first_at(end_s)
        shift = 0 if index_at_start is None else index_at_start - first
        for index in range(first, last):
            yield self._frame(index, index + shift)

    def frames_at(self, indices: Sequence[int]) -> np.ndarray:
        """Return frames by number as RGB [T, H, W, 3]; see `VideoReader.frames_at`."""
        for index in indices:
            if not 0 <= index < len(self._times_us):
                raise IndexError(f"the source has no frame number {index}")
        if not indices:
            return np.zeros((0, self.info.height, self.info.width, 3), dtype=np.uint8)
        return self._checked(list(indices))

    def frame_at_time(self, time_s: float) -> Frame:
        """Return the frame on screen at `time_s`; see `VideoReader.frame_at_time`."""
        place = bisect.bisect_right(self._times_us, round(time_s * MICROSECONDS)) - 1
        return self._frame(max(0, place), max(0, place))

    def close(self) -> None:
        """Close the decoder."""

    def __enter__(self) -> "ArrayReader":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _open_backend(self, source: Source) -> int:
        """Open the source in the backend and return its number of frames."""
        raise NotImplementedError

    def _arrays(self, indices: list[int]) -> np.ndarray:
        """Return the frames of these numbers as RGB uint8 [T, H, W, 3]."""
        raise NotImplementedError

    def _unsupported(self, timeline: Timeline) -> list[str]:
        info = self.info
        colour = info.colour
        wrong = {
            f"codec {info.codec}": info.codec not in self.codecs,
            f"{info.bit_depth} bits a sample": info.bit_depth > 8,
            f"pixel format {info.pixel_format}": info.pixel_format != "yuv420p",
            "full range": colour.full_range,
            f"matrix BT.{colour.matrix}": colour.matrix not in self.matrices,
            "HDR or wide gamut": not colour.is_display_ready,
            "rotation": bool(info.rotation) and not self.rotates,
            "mirroring": info.mirrored,
            "pixels that are not square": info.sample_aspect != 1,
            "interlaced": info.interlaced,
            "odd size": info.width % 2 + info.height % 2 > 0,
            "an edit list, or time before zero": self._times_us[:1].tolist() != [0],
            "packets that are not frames": not timeline.is_exact,
            "open groups of pictures": timeline.has_open_groups and not self.seeks_open_groups,
        }
        return [what for what, is_wrong in wrong.items() if is_wrong]

    def _refuse(self, why: str) -> None:
        raise BackendRefusalError("unsupported", f"{self.name} decodes this source wrongly: {why}")

    def _first_at(self, time_s: float) -> int:
        return bisect.bisect_left(self._times_us, round(time_s * MICROSECONDS))

    def _frame(self, index: int, number: int) -> Frame:
        image = self._checked([index])[0]
        return frame_from_rgb(image, int(self._times_us[index]), number, index in self._keys)

    def _checked(self, indices: list[int]) -> np.ndarray:
        try:
            images = self._arrays(indices)
        except Exception as error:
            raise DecodeError("corrupt", f"{self.name}: {error}") from error
        if images.shape[1:] != (self.info.height, self.info.width, 3):
            self._refuse(f"returns frames of shape {images.shape[1:]}")
        return images
