"""The motion numbers of a clip's frames: exact for synthetic people, head pose for real clips."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocessing.synthetic.motion.columns import COLUMN, MOTION_COLUMNS

# Position and size in the frame are not in the crop that the motion encoder sees.
_POSITION = ("tx", "ty", "zoom")
#: Names of the numbers, in order.
READOUT_COLUMNS = tuple(name for name in MOTION_COLUMNS if name not in _POSITION)
_PICKED = [COLUMN[name] for name in READOUT_COLUMNS]
_POSE = [READOUT_COLUMNS.index(name) for name in ("yaw", "pitch", "roll")]


def motion_numbers(
    arrays: Mapping[str, NDArray[Any]], frames: NDArray[np.int_]
) -> NDArray[np.float32]:
    """Return [F, K] numbers of `READOUT_COLUMNS` for frames of a clip, NaN where unknown.

    Args:
        arrays: the clip's npz. `truth` holds exact numbers; without it yaw, pitch and roll are
            those that preprocessing estimated.
        frames: indices of the frames.
    """
    if "truth" in arrays:
        return np.asarray(arrays["truth"][frames][:, _PICKED], np.float32)
    numbers = np.full((len(frames), len(READOUT_COLUMNS)), np.nan, np.float32)
    numbers[:, _POSE] = arrays["pose"][frames]
    return numbers
