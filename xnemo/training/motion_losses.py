"""The loss of the motion readout, and its accuracy."""

import torch
import torch.nn.functional as F
from torch import Tensor


def motion_loss(
    predicted_BFK: Tensor, target_BFK: Tensor, present_B: Tensor | None = None
) -> Tensor:
    """Return the smooth L1 distance of predicted from true standardised motion numbers.

    Args:
        predicted_BFK: output of `MotionReadout`.
        target_BFK: `MotionReadout.standardise` of the true numbers; NaN counts 0.
        present_B: samples with their condition; the others, whose driving frames are replaced,
            count 0. None if no condition is dropped.
    """
    known_BFK = torch.isfinite(target_BFK)
    if present_B is not None:
        known_BFK = known_BFK & present_B[:, None, None]
    error_BFK = F.smooth_l1_loss(
        predicted_BFK.float(), torch.where(known_BFK, target_BFK, 0.0), reduction="none"
    )
    return (error_BFK * known_BFK).sum() / max(1, target_BFK.numel())


def readout_sums(predicted_NK: Tensor, target_NK: Tensor) -> Tensor:
    """Return (4, K): count, sum and sum of squares of the known targets, and squared errors."""
    known_NK = torch.isfinite(target_NK)
    target_NK = torch.where(known_NK, target_NK, 0.0).double()
    error_NK = (predicted_NK.double() - target_NK) * known_NK
    rows = (known_NK.double(), target_NK, target_NK.square(), error_NK.square())
    return torch.stack([row.sum(dim=0) for row in rows])


def r_squared(sums_4K: Tensor) -> Tensor:
    """Return the share of each number's variance (K,) that is predicted; NaN where it is constant.

    Args:
        sums_4K: sums of `readout_sums` over any number of batches and workers.
    """
    count, total, squares, errors = sums_4K.unbind()
    spread = squares - total.square() / count.clamp(min=1)
    return torch.where(spread > 1e-3 * count.clamp(min=1), 1 - errors / spread, torch.nan)
