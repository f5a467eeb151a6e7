"""How far the motion latent is from telling how the face changes."""

import torch
from torch import Tensor


def face_change_error(told_BFK: Tensor, described_BFK: Tensor, present_B: Tensor) -> Tensor:
    """Return the mean square between changes as told and as described.

    Args:
        told_BFK: what `FaceReadout` says.
        described_BFK: descriptions of the frames; samples with one that is not finite count as
            nothing, for nobody knows what their latents should say.
        present_B: the samples that have their condition; in others all frames are one picture.
    """
    described = described_BFK.float()
    counts_B = present_B & torch.isfinite(described).flatten(1).all(dim=1)
    described = torch.where(counts_B[:, None, None], described, 0.0)
    change_BFK = described - described.mean(dim=1, keepdim=True)
    error_B = (told_BFK.float() - change_BFK).square().mean(dim=(1, 2))
    return torch.where(counts_B, error_B, 0.0).mean()
