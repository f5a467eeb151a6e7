"""Motion from tables: columns of this package, or ARKit's as a phone's face capture writes them."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from preprocessing.errors import UserError
from preprocessing.synthetic.motion.columns import (
    ACTIONS,
    COLUMN,
    GAZE_ACTIONS,
    MOTION_COLUMNS,
    Motion,
    check_motion,
    sided,
)

_ARKIT = {*ACTIONS, *sided(*GAZE_ACTIONS)}
# What Live Link Face adds: bookkeeping, and rotations in radians. Those of the eyes repeat
# eyeLook*, from which the gaze is taken.
_IGNORED = {
    "timecode", "blendshapeCount", "time_s",
    *(f"{side}Eye{axis}" for side in ("left", "right") for axis in ("Yaw", "Pitch", "Roll")),
}  # fmt: skip
_HEAD = {"headYaw": ("yaw", 1.0), "headPitch": ("pitch", 1.0), "headRoll": ("roll", 1.0)}


def read_motion(path: str | Path) -> Motion:
    """Read motion [T, P] from a table, .parquet or .csv, with a row for each frame.

    The table has all columns of `MOTION_COLUMNS`, or all 52 blend shapes of ARKit (with a capital
    or a small first letter), optionally with HeadYaw, HeadPitch and HeadRoll in radians.

    Raises:
        UserError: the file is no such table, a column is missing or unknown, or a number is not
            finite.
    """
    path = Path(path)
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist", "name a table of motion") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not a table", "give a .parquet or .csv file") from error
    return motion_from_table(table, str(path))


def motion_from_table(table: pd.DataFrame, name: str = "the table") -> Motion:
    """Return the motion [T, P] of a table, see `read_motion`."""
    columns = {str(c) if c in COLUMN else _lower_first(str(c)): c for c in table.columns}
    is_arkit = "eyeLookUpLeft" in columns
    required = _ARKIT if is_arkit else set(MOTION_COLUMNS)
    allowed = required | _IGNORED | (set(_HEAD) if is_arkit else set())
    missing, unknown = sorted(required - set(columns)), sorted(set(columns) - allowed)
    if missing:
        raise UserError(f"{name} has no column {missing[0]}", "give all motion columns")
    if unknown:
        raise UserError(
            f"{name} has an unknown column {columns[unknown[0]]}", "remove or rename the column"
        )

    def values(column: str) -> NDArray[np.float64]:
        try:
            return table[columns[column]].to_numpy(np.float64)
        except (TypeError, ValueError):
            raise UserError(
                f"column {column} of {name} holds text", "every motion number must be finite"
            ) from None

    motion = np.zeros((len(table), len(MOTION_COLUMNS)))
    for column in MOTION_COLUMNS:
        if column in required:
            motion[:, COLUMN[column]] = values(column)
    if is_arkit:
        up, down, inward, outward = (
            {side: values(f"eyeLook{way}{side}") for side in ("Left", "Right")}
            for way in ("Up", "Down", "In", "Out")
        )
        pitch = [up[s] * GAZE_ACTIONS["eyeLookUp"] - down[s] * GAZE_ACTIONS["eyeLookDown"]
                 for s in ("Left", "Right")]  # fmt: skip
        sideways = GAZE_ACTIONS["eyeLookOut"]
        yaw = (outward["Left"] - inward["Left"] + inward["Right"] - outward["Right"]) / 2
        motion[:, COLUMN["gaze_yaw"]] = yaw * sideways
        motion[:, COLUMN["gaze_pitch"]] = np.mean(pitch, axis=0)
        for column, (target, sign) in _HEAD.items():
            if column in columns:
                motion[:, COLUMN[target]] = sign * np.degrees(values(column))
    return check_motion(motion)


def _lower_first(name: str) -> str:
    return name[:1].lower() + name[1:]
