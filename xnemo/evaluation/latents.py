"""The motion latents of held-out clips, for probes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xnemo.animation.pictures import to_tensor
from xnemo.evaluation.held_out import HeldOutClip, driving_crops


@torch.no_grad()
def motion_latents(
    encoder: Any, clips: Sequence[HeldOutClip], chunk: int = 32
) -> NDArray[np.float32]:
    """Return the latent of every frame (N, D), clip after clip, before position and scale.

    What is measured is what the encoder reads from the picture of the face; where the face is was
    told to it.

    Args:
        encoder: the `MotionEncoder`, in evaluation mode.
        clips: what to encode.
        chunk: frames encoded at once.
    """
    parameter = next(encoder.parameters())
    centred = torch.tensor([0.0, 0.0, 1.0]).to(parameter)
    found = []
    for clip in clips:
        crops = driving_crops(clip, encoder.config.image_size)
        for start in range(0, len(crops), chunk):
            images = to_tensor(crops[start : start + chunk]).to(parameter)
            latent = encoder(images, centred.expand(len(images), 3))
            found.append(latent.face.float().cpu().numpy())
    return np.concatenate(found)
