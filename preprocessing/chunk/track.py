"""The frames of one face track while it is open, and the clip that is cut from it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from preprocessing.chunk.scan import Detection
from preprocessing.chunk.tube import CropBuffer
from preprocessing.geometry import Box, box_side, union_box
from preprocessing.storage.sample import INTERPOLATED


@dataclass(frozen=True, eq=False)
class TrackFrame:
    """One frame of a track."""

    tick: int
    time_us: int
    pts_us: int
    src_frame: int
    crop: CropBuffer
    # None while the face is lost; filled in by interpolation or cut off.
    detection: Detection | None
    # Boxes of all other faces in the frame, float32 [N, 4].
    others: np.ndarray


@dataclass(frozen=True, eq=False)
class Clip:
    """A stretch of one track with its tube, not yet scored or encoded."""

    # Number of the track within the shot, and of the shot within the chunk.
    track: int
    shot: int
    frames: Sequence[TrackFrame]
    # Smoothed boxes [T, 4] and landmarks [T, 5, 2] in source pixels.
    bbox: np.ndarray
    landmarks: np.ndarray
    # The square in source pixels, and the frame it lies in.
    tube: Box
    frame_hw: tuple[int, int]


@dataclass
class OpenTrack:
    """A track that may grow."""

    frames: list[TrackFrame] = field(default_factory=list)
    bytes: int = 0
    # Union of all face boxes, and the area that every crop buffer covers.
    union: np.ndarray | None = None
    common: np.ndarray | None = None
    # Larger side of the smallest face box.
    smallest: float = np.inf

    def append(self, frame: TrackFrame) -> None:
        """Add a frame at the end."""
        self.frames.append(frame)
        if frame.detection is not None:
            self.smallest = min(self.smallest, float(box_side(frame.detection.box)))
        self.bytes += frame.crop.bytes
        self.union, self.common = self.with_added(frame)

    def with_added(self, frame: TrackFrame) -> tuple[np.ndarray | None, np.ndarray]:
        """Return the union of boxes and the commonly covered area after one more frame."""
        union, common = self.union, np.array(frame.crop.box)
        if frame.detection is not None:
            box = frame.detection.box
            union = box if union is None else union_box(np.stack([union, box]))
        if self.common is not None:
            inner, outer = self.common, common
            common = np.concatenate(
                [np.maximum(inner[:2], outer[:2]), np.minimum(inner[2:], outer[2:])]
            )
        return union, common

    def take(self, count: int) -> list[TrackFrame]:
        """Remove the first `count` frames and return them."""
        taken, rest = self.frames[:count], self.frames[count:]
        self.frames, self.bytes, self.union, self.common = [], 0, None, None
        self.smallest = np.inf
        for frame in rest:
            self.append(frame)
        return taken

    @property
    def lost(self) -> int:
        """Number of frames at the end in which the face was not found."""
        count = 0
        for frame in reversed(self.frames):
            if frame.detection is not None:
                break
            count += 1
        return count

    @property
    def last_box(self) -> np.ndarray:
        """Box of the latest detection."""
        return next(f.detection.box for f in reversed(self.frames) if f.detection is not None)

    def fill_gap(self, later: Detection) -> None:
        """Interpolate over the frames at the end in which the face was not found."""
        span = self.lost + 1
        known = len(self.frames) - span
        earlier = self.frames[known].detection
        assert earlier is not None
        for position in range(known + 1, len(self.frames)):
            share = (position - known) / span
            box = earlier.box * (1 - share) + later.box * share
            landmarks = earlier.landmarks_52 * (1 - share) + later.landmarks_52 * share
            between = Detection(
                box=box.astype(np.float32),
                landmarks_52=landmarks.astype(np.float32),
                score=min(earlier.score, later.score),
                flags=INTERPOLATED,
                bridged=True,
            )
            self.frames[position] = replace(self.frames[position], detection=between)
