"""What a face looks like in few numbers that mean the same for everybody."""

import cv2
import numpy as np
from numpy.typing import NDArray

from preprocessing.geometry import similarity, tight_box
from xnemo.data.resize import shrunk

# Length of a description: five landmarks, and the lightness of a grid of cells over the face.
_CELLS = 8
FACE_NUMBERS = 10 + _CELLS**2

# What is a unit: a usual deviation over time while somebody talks. Landmarks are in sides of the
# tight box, lightness in parts of the full range. The cells, being more, count for less each, so
# that both groups have the same weight in a mean of squares.
_POINT_UNIT = 0.03
_LIGHT_UNIT = 0.06
_POINT_WEIGHT, _LIGHT_WEIGHT = np.sqrt(FACE_NUMBERS / (2 * np.array([10, _CELLS**2])))

# Eyes, nose and mouth corners of a face seen from the front, in a unit square.
_FRONTAL_52 = np.array([[0.34, 0.40], [0.66, 0.40], [0.50, 0.58], [0.37, 0.76], [0.63, 0.76]])
# Side in pixels of the face that is cut out, before its cells are averaged.
_SIDE = 48
# Landmarks nearer to each other than this have been lost, not found.
_LEAST_PIXELS = 2

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def describe_face(
    picture_HWC: NDArray[np.uint8], box: NDArray, landmarks_52: NDArray
) -> NDArray[np.float32]:
    """Return `FACE_NUMBERS` numbers; differences between frames of one person are their motion.

    The landmarks, relative to the box, tell how the head is turned. The lightness of the face, cut
    out so that its landmarks come to lie where a face seen from the front has them, tells what is
    left: an open mouth is dark, whoever opens it. Linear readers find yaw, pitch, roll and mouth
    in their differences (`docs/learning.md`). NaN throughout where the landmarks are no face's.

    Args:
        picture_HWC: RGB.
        box: face box (x0, y0, x1, y1) in its pixels.
        landmarks_52: eyes as they appear left to right, nose, mouth corners.
    """
    points_52 = np.asarray(landmarks_52, np.float64)
    if not np.isfinite(points_52).all() or np.ptp(points_52, axis=0).max() < _LEAST_PIXELS:
        return np.full(FACE_NUMBERS, np.nan, np.float32)
    affine = similarity(points_52, _FRONTAL_52 * _SIDE)
    tight = tight_box(box, picture_HWC.shape[:2])
    relative = (points_52 - tight[:2]) / (tight[2:] - tight[:2])
    light = _cells(picture_HWC, affine) / 255
    parts = [
        relative.ravel() * (_POINT_WEIGHT / _POINT_UNIT),
        light.ravel() * (_LIGHT_WEIGHT / _LIGHT_UNIT),
    ]
    return np.concatenate(parts).astype(np.float32)


def _cells(picture_HWC: NDArray[np.uint8], affine_23: NDArray) -> NDArray[np.float32]:
    """Return the lightness of the cells of a face that the affine map brings into place."""
    affine, picture = affine_23.copy(), picture_HWC
    shrink = int(1 / max(np.hypot(affine[0, 0], affine[1, 0]), _SIDE / max(picture.shape)))
    if shrink >= 2:
        picture, factors = shrunk(picture, shrink)
        affine[:, :2] /= factors
    face = cv2.warpAffine(
        picture, affine, (_SIDE, _SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    step = _SIDE // _CELLS
    cells = face.reshape(_CELLS, step, _CELLS, step, 3).mean(axis=(1, 3), dtype=np.float32)
    return cells @ _LUMA
