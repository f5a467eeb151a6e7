"""Mean and standard deviation of the motion numbers of a run's data."""

import warnings

import numpy as np
import torch
from torch import Tensor

from preprocessing.errors import UserError
from xnemo.data.sample_reader import SampleReader

# Enough for standard deviations to a few per cent; reading them takes a second or two.
_CLIPS = 256


def motion_statistics(reader: SampleReader) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (K,) over clips spread evenly over the data.

    NaN where no clip knows a number.

    Raises:
        UserError: no clip knows any.
    """
    total = len(reader.clips.rows)
    chosen = np.unique(np.linspace(0, total - 1, min(total, _CLIPS)).astype(int))
    numbers = np.concatenate([reader.read_motion(int(row)) for row in chosen])
    if not np.isfinite(numbers).any():
        raise UserError(
            "loss.motion is above 0 and no clip of the data has motion numbers",
            "train on synthetic people (xnemo synthesize), or set loss.motion=0",
        )
    with warnings.catch_warnings():
        # Columns that are NaN throughout.
        warnings.simplefilter("ignore", RuntimeWarning)
        mean, std = np.nanmean(numbers, axis=0), np.nanstd(numbers, axis=0)
    return torch.from_numpy(mean).float(), torch.from_numpy(np.nan_to_num(std)).float()
