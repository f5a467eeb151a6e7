"""Held-out clips with their stored faces."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocessing import geometry
from preprocessing.decode.clip import decode_clip
from preprocessing.faces.detector import Detector, Face
from preprocessing.storage.sample import read_member, unpack_arrays
from xnemo.data.clip_table import open_clips


@dataclass(frozen=True)
class HeldOutClip:
    """Frames of a stored clip, with its face."""

    key: str
    identity: str
    # RGB uint8 (F, S, S, 3).
    frames: NDArray[np.uint8]
    # Face box (F, 4) and five landmarks (F, 5, 2) in these pixels.
    boxes: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    # Yaw, pitch and roll (F, 3) in degrees.
    pose: NDArray[np.float32]


def read_held_out(
    roots: Sequence[str], filter: str, *, clips: int, frames: int, stride: int = 1
) -> list[HeldOutClip]:
    """Read the first frames of some clips, alternating between identities so that all occur.

    Args:
        roots: Data sets.
        filter: Filter expression on the rows of the index.
        clips: Most clips to read.
        frames: Most frames of each.
        stride: Distance between the frames read.

    Raises:
        UserError: The filter selects no clip.
    """
    rows = open_clips(roots, filter).rows
    turn = rows.groupby("identity", sort=True).cumcount()
    order = rows.assign(turn=turn).sort_values(["turn", "identity", "key"]).head(clips)
    return [_read(row, frames, stride) for row in order.to_dict("records")]


class KnownFaces:
    """A detector that returns the stored faces of held-out clips, and another's for other images.

    Detection in small crops is hard, and preprocessing has already run on the source.
    """

    def __init__(self, clips: Sequence[HeldOutClip], other: Detector) -> None:
        """Store the faces of all frames of the clips."""
        self._other = other
        self._known: dict[bytes, Face] = {}
        for clip in clips:
            for frame, box, points in zip(clip.frames, clip.boxes, clip.landmarks, strict=True):
                self._known[_digest(frame)] = Face(box, 1.0, points)

    @property
    def name(self) -> str:
        """Name of the other detector."""
        return self._other.name

    @property
    def model_sha256(self) -> Mapping[str, str]:
        """Weights of the other detector."""
        return self._other.model_sha256

    @property
    def recognises(self) -> bool:
        """Whether the other detector has a recognition network."""
        return self._other.recognises

    def detect(self, rgb_HWC: NDArray[np.uint8]) -> list[Face]:
        """Return the stored face of the image, or what the other detector finds."""
        known = self._known.get(_digest(rgb_HWC))
        return [known] if known is not None else self._other.detect(rgb_HWC)

    def embed(
        self, rgb_HWC: NDArray[np.uint8], landmarks_52: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return the other detector's embedding."""
        return self._other.embed(rgb_HWC, landmarks_52)


def driving_crops(clip: HeldOutClip, size: int) -> NDArray[np.uint8]:
    """Return the tight crops (F, size, size, 3) that the motion encoder reads."""
    boxes = geometry.driving_crop_boxes(clip.boxes, clip.frames.shape[1:3])
    crops = [
        geometry.crop_resize(frame, box, size)
        for frame, box in zip(clip.frames, boxes, strict=True)
    ]
    return np.stack(crops)


def _read(row: Mapping[Any, Any], frames: int, stride: int) -> HeldOutClip:
    root = str(row["root"])
    arrays = unpack_arrays(read_member(root, row, "npz"))
    numbers = np.arange(len(arrays.bbox_crop))[::stride][:frames]
    return HeldOutClip(
        key=str(row["key"]),
        identity=str(row["identity"]),
        frames=decode_clip(read_member(root, row, "mp4"), numbers.tolist()),
        boxes=arrays.bbox_crop[numbers],
        landmarks=arrays.landmarks[numbers],
        pose=arrays.pose[numbers],
    )


def _digest(image: NDArray[np.uint8]) -> bytes:
    return blake2b(image.tobytes(), digest_size=16).digest()
