"""The reference network: a second UNet that encodes the portrait once."""

from collections.abc import Sequence
from typing import cast

from diffusers.configuration_utils import register_to_config
from torch import Tensor

from xnemo.model.unet.blocks import LevelContext, UpLevel
from xnemo.model.unet.config import UNetConfig
from xnemo.model.unet.reference_features import ReferenceFeatures
from xnemo.model.unet.spatial_transformer import SpatialTransformer
from xnemo.model.unet.trunk import UNetTrunk


class ReferenceNet(UNetTrunk):
    """Stable Diffusion's UNet without output layers; arguments are fields of `UNetConfig`.

    The denoiser's transformer block of the same name reads each block's normed self-attention
    input. The pass ends at the last of these. Parameters beyond it exist because checkpoints have
    them; they have no effect and do not require gradients, so that a distributed engine does not
    wait for any.
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
        image_embedding_width: int = 768,
        use_2d_rope: bool = False,
    ) -> None:
        super().__init__()
        self._build(self._registered_config(module_norm_groups=1), motion=False)
        self.last_writer = self.transformer_names()[-1]
        self._freeze_unread()

    @classmethod
    def from_unet_config(cls, config: UNetConfig) -> "ReferenceNet":
        """Build the reference network of the denoiser that `config` describes."""
        return cls(
            config.latent_channels,
            config.widths,
            config.attention,
            config.layers,
            config.heads,
            config.norm_groups,
            config.image_embedding_width,
            config.use_2d_rope,
        )

    def forward(
        self, z_ref_BChw: Tensor, image_embeddings_BLD: Tensor, timestep: Tensor | int = 0
    ) -> ReferenceFeatures:
        """Return the reference features of clean portrait latents.

        Args:
            z_ref_BChw: Scaled latents of the portraits, without noise.
            image_embeddings_BLD: Image embeddings of the portraits.
            timestep: 0, the timestep of a clean latent.
        """
        context = LevelContext(
            time_NT=self._embed_time(timestep, z_ref_BChw),
            image_embeddings_NLD=image_embeddings_BLD,
            motion_NLD=None,
            frames=1,
            writes=True,
            last_writer=self.last_writer,
        )
        return ReferenceFeatures(self._run(z_ref_BChw, context)[1])

    def _freeze_unread(self) -> None:
        beyond = False
        for level, index in self.layers_in_order():
            if beyond:
                level.resnets[index].requires_grad_(False)
                if index < level.transformers:
                    level.attentions[index].requires_grad_(False)
            elif level.block_name(index) == self.last_writer:
                beyond = True
                transformer = cast(SpatialTransformer, level.attentions[index])
                transformer.requires_grad_(False)
                for part in transformer.writing_parts():
                    part.requires_grad_(True)
            if beyond and isinstance(level, UpLevel) and level.upsamplers is not None:
                level.upsamplers.requires_grad_(False)
