"""Clips that training did not see, and what is known of them."""

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
    """Read the first frames of some clips, taking people in turn so that all are represented.

    Args:
        roots: data sets.
        filter: which rows of the index.
        clips: most clips to read.
        frames: most frames of each.
        stride: distance between the frames taken.

    Raises:
        UserError: nothing is left by the filter.
    """
    rows = open_clips(roots, filter).rows
    turn = rows.groupby("identity", sort=True).cumcount()
    order = rows.assign(turn=turn).sort_values(["turn", "identity", "key"]).head(clips)
    return [_read(row, frames, stride) for row in order.to_dict("records")]


class KnownFaces:
    """A detector that knows the faces of held-out clips and asks another about other pictures.

    Small crops are hard to detect in, and preprocessing has already done it on the source.
    """

    def __init__(self, clips: Sequence[HeldOutClip], other: Detector) -> None:
        """Learn the clips' pictures."""
        self._other = other
        self._known: dict[bytes, Face] = {}
        for clip in clips:
            for picture, box, points in zip(clip.frames, clip.boxes, clip.landmarks, strict=True):
                self._known[_digest(picture)] = Face(box, 1.0, points)

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
        """Whether the other recognises."""
        return self._other.recognises

    def detect(self, rgb_HWC: NDArray[np.uint8]) -> list[Face]:
        """Return what is known of the picture, or what the other sees in it."""
        known = self._known.get(_digest(rgb_HWC))
        return [known] if known is not None else self._other.detect(rgb_HWC)

    def embed(
        self, rgb_HWC: NDArray[np.uint8], landmarks_52: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Ask the other."""
        return self._other.embed(rgb_HWC, landmarks_52)


def driving_crops(clip: HeldOutClip, size: int) -> NDArray[np.uint8]:
    """Return the tight crops (F, size, size, 3) that the motion encoder reads."""
    boxes = geometry.driving_crop_boxes(clip.boxes, clip.frames.shape[1:3])
    crops = [
        geometry.crop_resize(picture, box, size)
        for picture, box in zip(clip.frames, boxes, strict=True)
    ]
    return np.stack(crops)


def _read(row: Mapping[Any, Any], frames: int, stride: int) -> HeldOutClip:
    root = str(row["root"])
    arrays = unpack_arrays(read_member(root, row, "npz"))
    taken = np.arange(len(arrays.bbox_crop))[::stride][:frames]
    return HeldOutClip(
        key=str(row["key"]),
        identity=str(row["identity"]),
        frames=decode_clip(read_member(root, row, "mp4"), taken.tolist()),
        boxes=arrays.bbox_crop[taken],
        landmarks=arrays.landmarks[taken],
        pose=arrays.pose[taken],
    )


def _digest(picture: NDArray[np.uint8]) -> bytes:
    return blake2b(picture.tobytes(), digest_size=16).digest()
