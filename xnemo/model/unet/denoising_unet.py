"""The denoiser: Stable Diffusion's UNet on frames, conditioned on motion tokens."""

import math
from collections.abc import Sequence

from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from xnemo.model.unet.blocks import LevelContext
from xnemo.model.unet.reference_attention import split_presence
from xnemo.model.unet.reference_features import ReferenceFeatures
from xnemo.model.unet.trunk import UNetTrunk


class DenoisingUNet(UNetTrunk):
    """Predict the noise in the frames of a clip; arguments are the fields of `UNetConfig`.

    All conditions are arguments: image embeddings, motion tokens of each frame, and reference
    features. Frames share weights and interact only in the temporal modules.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 4,
        widths: Sequence[int] = (320, 640, 1280, 1280),
        attention: Sequence[bool] = (True, True, True, False),
        layers: int = 2,
        heads: int = 8,
        norm_groups: int = 32,
        module_norm_groups: int = 32,
        image_embedding_width: int = 768,
        motion_width: int = 16,
        temporal: bool = True,
        max_frames: int = 32,
        use_2d_rope: bool = False,
    ) -> None:
        super().__init__()
        self._build(self._registered_config(), motion=True)
        self.frame_limit = max_frames if temporal else math.inf
        self.conv_norm_out = nn.GroupNorm(norm_groups, widths[0], eps=1e-5)
        self.conv_out = nn.Conv2d(widths[0], latent_channels, 3, padding=1)

    def forward(
        self,
        z_BCFhw: Tensor,
        timestep: Tensor | int,
        image_embeddings_BLD: Tensor,
        motion_BFLD: Tensor,
        reference: ReferenceFeatures | None = None,
    ) -> Tensor:
        """Return the predicted noise (B, C, F, h, w).

        Args:
            z_BCFhw: Noisy latents of F frames, of any size with at least one cell at every level.
            timestep: One for all samples, or one each (B,).
            image_embeddings_BLD: Image embeddings of the portraits; zeros where unconditional.
            motion_BFLD: Motion tokens of each frame.
            reference: Features of the portraits from the reference network; None for no reference.
        """
        batch, frames = z_BCFhw.shape[0], z_BCFhw.shape[2]
        self._check(z_BCFhw, image_embeddings_BLD, motion_BFLD, reference)
        has_reference, presence = split_presence(reference)
        context = LevelContext(
            time_NT=self._embed_time(timestep, z_BCFhw).repeat_interleave(frames, dim=0),
            image_embeddings_NLD=image_embeddings_BLD.repeat_interleave(frames, dim=0),
            motion_NLD=motion_BFLD.flatten(0, 1),
            frames=frames,
            reference=reference if has_reference else None,
            presence=presence,
        )
        x, _ = self._run(z_BCFhw.transpose(1, 2).flatten(0, 1), context)
        eps_NChw = self.conv_out(F.silu(self.conv_norm_out(x)))
        return eps_NChw.unflatten(0, (batch, frames)).transpose(1, 2)

    def _check(
        self,
        z_BCFhw: Tensor,
        image_embeddings_BLD: Tensor,
        motion_BFLD: Tensor,
        reference: ReferenceFeatures | None,
    ) -> None:
        batch, frames = z_BCFhw.shape[0], z_BCFhw.shape[2]
        if motion_BFLD.shape[:2] != (batch, frames) or image_embeddings_BLD.shape[0] != batch:
            raise ValueError(
                f"latents are {batch} samples of {frames} frames, but motion tokens"
                f" {tuple(motion_BFLD.shape)} and image embeddings"
                f" {tuple(image_embeddings_BLD.shape)}"
            )
        if frames > self.frame_limit:
            raise ValueError(
                f"{frames} frames at once; the temporal modules take {self.frame_limit:.0f} at most"
            )
        if reference is None:
            return
        if reference.by_block.keys() != set(self.transformer_names()):
            odd = sorted(reference.by_block.keys() ^ set(self.transformer_names()))
            raise ValueError(f"reference features are of another network: {odd[0]} and others")
        for tokens in reference.by_block.values():
            if tokens.shape[0] != batch:
                raise ValueError(
                    f"reference features of {tokens.shape[0]} samples for a batch of {batch}"
                )
