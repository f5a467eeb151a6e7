"""The numbers that make a frame: head pose, position in the frame, gaze and facial actions."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from preprocessing.errors import UserError

#: Head rotation, position in the frame, size and gaze, with their units. Positive yaw turns the
#: face to the image's right, pitch up, roll clockwise in the image; tx and ty move to the right
#: and up.
POSE_UNITS = {
    "yaw": "degrees",
    "pitch": "degrees",
    "roll": "degrees",
    "tx": "fraction of the frame",
    "ty": "fraction of the frame",
    "zoom": "natural logarithm of the size",
    "gaze_yaw": "degrees",
    "gaze_pitch": "degrees",
}


def sided(*names: str) -> tuple[str, ...]:
    """Return each name with Left and with Right appended."""
    return tuple(name + side for name in names for side in ("Left", "Right"))


#: Facial actions in [0, 1] with the names of ARKit. Its eyeLook* are replaced by the gaze.
ACTIONS = (
    *sided("browDown"), "browInnerUp", *sided("browOuterUp"), "cheekPuff", *sided("cheekSquint"),
    *sided("eyeBlink", "eyeSquint", "eyeWide"), "jawForward", "jawLeft", "jawOpen", "jawRight",
    "mouthClose", *sided("mouthDimple", "mouthFrown"), "mouthFunnel", "mouthLeft",
    *sided("mouthLowerDown", "mouthPress"), "mouthPucker", "mouthRight", "mouthRollLower",
    "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper",
    *sided("mouthSmile", "mouthStretch", "mouthUpperUp", "noseSneer"), "tongueOut",
)  # fmt: skip
#: Gaze at which each of ARKit's eyeLook* actions is 1, in degrees.
GAZE_ACTIONS = {"eyeLookDown": 20.0, "eyeLookIn": 24.0, "eyeLookOut": 24.0, "eyeLookUp": 13.0}

MOTION_COLUMNS = (*POSE_UNITS, *ACTIONS)
COLUMN = {name: index for index, name in enumerate(MOTION_COLUMNS)}
UNITS = {name: POSE_UNITS.get(name, "activation, 0 to 1") for name in MOTION_COLUMNS}

Motion = NDArray[np.float32]


def make_motion(values: Mapping[str, float] | None = None, **more: float) -> Motion:
    """Return one row [1, P] of `MOTION_COLUMNS` with the given numbers and zeros elsewhere.

    Raises:
        UserError: a name is not a column, or a number is not finite.
    """
    row = np.zeros((1, len(MOTION_COLUMNS)), np.float32)
    for name, value in {**(values or {}), **more}.items():
        if name not in COLUMN:
            raise UserError(
                f"{name!r} is not a motion column", f"use one of {', '.join(MOTION_COLUMNS)}"
            )
        row[0, COLUMN[name]] = value
    return check_motion(row)


def check_motion(motion: NDArray[np.floating]) -> Motion:
    """Return motion as float32 [T, P].

    Raises:
        UserError: the shape is wrong or a number is not finite.
    """
    rows = np.atleast_2d(np.asarray(motion, np.float32))
    if rows.ndim != 2 or rows.shape[1] != len(MOTION_COLUMNS):
        raise UserError(
            f"motion has shape {tuple(np.shape(motion))}",
            f"give [frames, {len(MOTION_COLUMNS)}], one column for each of MOTION_COLUMNS",
        )
    bad = np.argwhere(~np.isfinite(rows))
    if len(bad):
        frame, column = bad[0]
        raise UserError(
            f"{MOTION_COLUMNS[column]} of frame {frame} is {rows[frame, column]}",
            "every motion number must be finite",
        )
    return rows
