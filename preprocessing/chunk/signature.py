"""The signature of a clip, by which `dataset.duplicates` finds its copies."""

from dataclasses import dataclass

import cv2
import numpy as np

# Side of the stored average face, and of the grid of fields whose brightness is stored.
_FACE = 8
_GRID = 3
#: Steps of a stored path: in face sides, and in natural logarithms of the face's side.
POSITION_STEP, SIZE_STEP = 1 / 64, 1 / 256


@dataclass(frozen=True)
class Signature:
    """Compact description of a clip that its copies share."""

    # Average face, zero mean and unit length, float32 [64].
    face: np.ndarray
    # Brightness of 3 × 3 fields in every second frame, uint8 [T, 9].
    curves: np.ndarray
    # Position (x, y) and size of the face about their means, in steps; uint8 [T, 3] about 128.
    path: np.ndarray

    def to_bytes(self) -> bytes:
        """Return the signature as bytes."""
        both = np.concatenate([self.curves, self.path], axis=1)
        return self.face.astype("<f4").tobytes() + both.tobytes()

    @staticmethod
    def from_bytes(data: bytes) -> "Signature":
        """Read a signature back."""
        size = 4 * _FACE * _FACE
        both = np.frombuffer(data[size:], np.uint8).reshape(-1, _GRID * _GRID + 3)
        face = np.frombuffer(data[:size], "<f4").astype(np.float32)
        return Signature(face, both[:, : _GRID * _GRID], both[:, _GRID * _GRID :])

    def mirrored(self) -> "Signature":
        """Return the signature of the mirrored clip."""
        face = self.face.reshape(_FACE, _FACE)[:, ::-1]
        curves = self.curves.reshape(-1, _GRID, _GRID)[:, :, ::-1]
        path = np.concatenate([255 - self.path[:, :1], self.path[:, 1:]], axis=1)
        return Signature(
            np.ascontiguousarray(face).reshape(-1),
            np.ascontiguousarray(curves).reshape(-1, _GRID * _GRID),
            path,
        )


def signature_of(faces_THW: np.ndarray, boxes_T4: np.ndarray) -> Signature:
    """Return the signature of a clip, 25 frames a second.

    Args:
        faces_THW: aligned faces, uint8 [T, H, W].
        boxes_T4: their boxes in any pixels that stay the same throughout.
    """
    every_second = faces_THW[::2]
    fields = np.stack(
        [cv2.resize(f, (_GRID, _GRID), interpolation=cv2.INTER_AREA) for f in every_second]
    )
    mean = every_second.astype(np.float32).mean(axis=0)
    face = cv2.resize(mean, (_FACE, _FACE), interpolation=cv2.INTER_AREA).reshape(-1)
    face = face - face.mean()
    face = face / max(float(np.linalg.norm(face)), 1e-6)
    return Signature(face.astype(np.float32), fields.reshape(len(fields), -1), _path(boxes_T4[::2]))


def _path(boxes_T4: np.ndarray) -> np.ndarray:
    boxes = np.asarray(boxes_T4, dtype=np.float64)
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    position = (boxes[:, :2] + boxes[:, 2:]) / 2 / np.median(sides)
    position = (position - position.mean(axis=0)) / POSITION_STEP
    size = np.log(sides) - np.log(sides).mean()
    path = np.concatenate([position, size[:, None] / SIZE_STEP], axis=1)
    return np.clip(np.round(path + 127.5), 0, 255).astype(np.uint8)
