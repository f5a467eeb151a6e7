"""Where hair and beards grow, as functions of the template position."""

import numpy as np

from preprocessing.synthetic.appearance.fields import Floats, smooth
from preprocessing.synthetic.body.mesh import AXIS

_AZIMUTHS = np.radians([0, 22, 42, 62, 78, 92, 108, 130, 180])
_HEIGHTS = np.array([0.797, 0.799, 0.794, 0.766, 0.722, 0.738, 0.708, 0.672, 0.655])


def hairline(azimuth: Floats, bend: Floats | None = None) -> Floats:
    """Height of the hair's edge in metres at angles around the head (0 in front)."""
    heights = _HEIGHTS if bend is None else _HEIGHTS + bend
    return np.asarray(np.interp(np.abs(azimuth), _AZIMUTHS, heights))


def beard_field(points: Floats, kind: str) -> Floats:
    """Density in [0, 1] of a goatee, a moustache or any fuller beard at points [..., 3]."""
    x, z = np.abs(points[..., 0]), points[..., 2]
    offset = points[..., :2] - AXIS
    azimuth = np.abs(np.arctan2(offset[..., 0], -offset[..., 1]))
    cheek = np.interp(
        x,
        [0, 0.022, 0.03, 0.05, 0.07, 0.085],
        [0.6825, 0.6805, 0.672, 0.668, 0.685, 0.715],
    )
    full = smooth(0, 0.012, cheek - z) * smooth(0.594, 0.616, z)
    full = full * (1 - smooth(np.radians(78), np.radians(93), azimuth))
    full = full * (1 - (x < 0.012) * (z > 0.644) * (z < 0.652) * 0.6)
    if kind == "goatee":
        return np.asarray(full * (1 - smooth(0.024, 0.034, x)))
    if kind == "moustache":
        return np.asarray(full * (x < 0.034) * (z > 0.6665) * (1 - smooth(0.024, 0.034, x)))
    return np.asarray(full)
