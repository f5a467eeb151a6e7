"""Classifier-free guidance with X-NeMo's unconditional branch, both branches in one batch."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from xnemo.model.unet.reference_features import ReferenceFeatures

Denoiser = Callable[..., Tensor]


@dataclass(frozen=True)
class Conditions:
    """All conditions of the denoising of one clip, computed once."""

    # Image embedding (1, L, D) of the reference crop; the unconditional branch has zeros.
    image_embedding: Tensor
    # Features of the reference (batch 1); the unconditional branch has none.
    reference: ReferenceFeatures
    # Motion tokens of every frame (F, L, D); may stay on the CPU.
    motion: Tensor
    # Motion of the unconditional branch: tokens (1, L, D) of the reference's own tight crop, with
    # box (0, 0, 1).
    negative_motion: Tensor

    @property
    def frames(self) -> int:
        """Frames of the clip."""
        return self.motion.shape[0]


def guided_prediction(
    denoiser: Denoiser,
    z_KCFhw: Tensor,
    timestep: int,
    conditions: Conditions,
    frames_KF: list[list[int]],
    scale: float,
) -> Tensor:
    """Return the guided prediction for K windows: `negative + scale · (positive − negative)`.

    Both branches run in one pass over 2K windows; with a scale of 1, the negative cancels and is
    not computed.

    Args:
        denoiser: `DenoisingUNet`, or a callable with its signature.
        z_KCFhw: Noisy latents of the windows, on the denoiser's device and of its dtype.
        timestep: Of all windows.
        conditions: Of the whole clip.
        frames_KF: Frame numbers of each window.
        scale: Guidance scale.
    """
    windows, frames = len(frames_KF), len(frames_KF[0])
    motion_KFLD = conditions.motion[torch.tensor(frames_KF)].to(z_KCFhw)
    image_embeddings_KLD = conditions.image_embedding.to(z_KCFhw).expand(windows, -1, -1)
    if scale == 1:
        return denoiser(
            z_KCFhw,
            timestep,
            image_embeddings_KLD,
            motion_KFLD,
            conditions.reference.select([0] * windows),
        )
    negative_motion = conditions.negative_motion.to(z_KCFhw)[:, None]
    prediction = denoiser(
        torch.cat([z_KCFhw, z_KCFhw]),
        timestep,
        torch.cat([torch.zeros_like(image_embeddings_KLD), image_embeddings_KLD]),
        torch.cat([negative_motion.expand(windows, frames, -1, -1), motion_KFLD]),
        conditions.reference.select([0] * 2 * windows).with_presence(
            torch.tensor([False] * windows + [True] * windows)
        ),
    )
    negative, positive = prediction.float().chunk(2)
    return negative + scale * (positive - negative)
