"""Auxiliary losses of the motion latent: shared identity, and predicted face change."""

import torch
from torch import Tensor


def identity_loss(face_BFD: Tensor, present_B: Tensor) -> Tensor:
    """Return the share of the latent's variance that the frames of a sample have in common.

    The frames of a sample show one identity under one augmentation, and differ by motion: the loss
    is 1 for a latent that is constant over the frames, 1 / F for F independent frames. It is a mean
    over samples, so it does not depend on accumulation or the number of workers.

    Args:
        face_BFD: face-motion vectors of F frames, standardised over the batch.
        present_B: samples with their condition; the others, whose frames are equal, count 0.
    """
    shared_B = face_BFD.float().mean(dim=1).square().mean(dim=1)
    return (shared_B * present_B).mean()


def face_change_loss(predicted_BFK: Tensor, described_BFK: Tensor, present_B: Tensor) -> Tensor:
    """Return the mean squared error of the predicted change of the face within each sample.

    Args:
        predicted_BFK: output of `FaceReadout`.
        described_BFK: `describe_face` of the target frames; samples with a non-finite value count
            0.
        present_B: samples with their condition; the others, whose frames are equal, count 0.
    """
    described = described_BFK.float()
    counts_B = present_B & torch.isfinite(described).flatten(1).all(dim=1)
    described = torch.where(counts_B[:, None, None], described, 0.0)
    change_BFK = described - described.mean(dim=1, keepdim=True)
    error_B = (predicted_BFK.float() - change_BFK).square().mean(dim=(1, 2))
    return torch.where(counts_B, error_B, 0.0).mean()
