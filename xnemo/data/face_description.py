"""Description of a face by few numbers that are comparable between identities."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from preprocessing.geometry import similarity, tight_box
from xnemo.data.resize import downsample

# A description holds five landmarks and the luminance of a grid of cells over the face.
_CELLS = 8
FACE_NUMBERS = 10 + _CELLS**2

# Units: typical standard deviations over time during speech, of landmarks in sides of the tight box
# and of luminance in fractions of the full range. The weights give both groups the same weight in
# a mean of squares.
_POINT_UNIT = 0.03
_LIGHT_UNIT = 0.06
_POINT_WEIGHT, _LIGHT_WEIGHT = np.sqrt(FACE_NUMBERS / (2 * np.array([10, _CELLS**2])))

# Eyes, nose and mouth corners of a frontal face in a unit square.
_FRONTAL_52 = np.array([[0.34, 0.40], [0.66, 0.40], [0.50, 0.58], [0.37, 0.76], [0.63, 0.76]])
# Side in pixels of the aligned face.
_SIDE = 48
# Smallest extent in pixels of valid landmarks.
_MIN_EXTENT = 2

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def describe_face(
    image_HWC: NDArray[np.uint8], box: NDArray[Any], landmarks_52: NDArray[Any]
) -> NDArray[np.float32]:
    """Return `FACE_NUMBERS` numbers whose changes over the frames of a clip are motion.

    Landmarks relative to the tight box give the head pose. The luminance of the face, aligned to
    frontal landmarks, gives the expression, such as an open, dark mouth. Yaw, pitch, roll and mouth
    are linear in their changes (`docs/learning.md`).

    Args:
        image_HWC: RGB.
        box: face box (x0, y0, x1, y1) in pixels.
        landmarks_52: (x, y) of eyes and mouth corners, left to right in the image, and nose.

    Returns:
        Shape (`FACE_NUMBERS`,); all NaN if the landmarks are not those of a face.
    """
    points_52 = np.asarray(landmarks_52, np.float64)
    if not np.isfinite(points_52).all() or np.ptp(points_52, axis=0).max() < _MIN_EXTENT:
        return np.full(FACE_NUMBERS, np.nan, np.float32)
    affine = similarity(points_52, _FRONTAL_52 * _SIDE)
    tight = tight_box(box, image_HWC.shape[:2])
    relative = (points_52 - tight[:2]) / (tight[2:] - tight[:2])
    luminance = _cell_luminance(image_HWC, affine) / 255
    parts = [
        relative.ravel() * (_POINT_WEIGHT / _POINT_UNIT),
        luminance.ravel() * (_LIGHT_WEIGHT / _LIGHT_UNIT),
    ]
    return np.concatenate(parts).astype(np.float32)


def _cell_luminance(
    image_HWC: NDArray[np.uint8], affine_23: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return the mean luminance (0..255) of each cell of the face aligned by `affine_23`."""
    affine, image = affine_23.copy(), image_HWC
    shrink = int(1 / max(np.hypot(affine[0, 0], affine[1, 0]), _SIDE / max(image.shape)))
    if shrink >= 2:
        image, factors = downsample(image, shrink)
        affine[:, :2] /= factors
    face = cv2.warpAffine(
        image, affine, (_SIDE, _SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    step = _SIDE // _CELLS
    cells = face.reshape(_CELLS, step, _CELLS, step, 3).mean(axis=(1, 3), dtype=np.float32)
    return np.asarray(cells @ _LUMA, np.float32)
