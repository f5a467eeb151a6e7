"""Shape of the two UNets, denoiser and reference network."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from preprocessing.errors import UserError
from xnemo.model.unet.copy_channels import CopyChannels


@dataclass(frozen=True)
class UNetConfig:
    """Shape of the UNets; the defaults are Stable Diffusion 1.x with X-NeMo's additions."""

    # Channels of a latent; must equal the autoencoder's.
    latent_channels: int = 4
    # Channels of each level, finest first; every level after the first halves the resolution.
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    # Which levels have spatial transformers, and so read the reference. The middle always has one.
    attention: tuple[bool, ...] = (True, True, True, False)
    # Residual blocks per level of the encoder; the decoder has one more.
    layers: int = 2
    # Heads of every attention; widths must be multiples.
    heads: int = 8
    # Groups of the norms in residual blocks, spatial transformers and at the output.
    norm_groups: int = 32
    # Groups of the entry norms of motion and temporal modules.
    module_norm_groups: int = 32
    # Width of the image embedding that both UNets attend to; must equal the image embedding's.
    image_embedding_width: int = 768
    # Width of a motion token; must equal the motion encoder's token_width.
    motion_width: int = 16
    # Whether the denoiser has temporal modules.
    temporal: bool = True
    # Maximum frames of a clip: length of the temporal modules' position tables.
    max_frames: int = 32
    # 2-D RoPE in the self-attention of both networks, and a fixed position table added to the first
    # feature map. Stable Diffusion has positions through its padding alone. Networks without
    # pretrained weights are then initialised to copy the reference (see `init_reference_copy`).
    use_2d_rope: bool = False

    def __post_init__(self) -> None:
        for name in ("latent_channels", "layers", "heads", "norm_groups", "module_norm_groups",
                     "image_embedding_width", "motion_width", "max_frames"):  # fmt: skip
            if getattr(self, name) < 1:
                raise UserError(f"unet.{name} = {getattr(self, name)}", "use 1 or more")
        if not self.widths or len(self.widths) != len(self.attention):
            raise UserError(
                f"unet.widths has {len(self.widths)} levels and unet.attention"
                f" {len(self.attention)}",
                "give both one entry per level",
            )
        for width in self.widths:
            for name in ("heads", "norm_groups", "module_norm_groups"):
                if width < 1 or width % getattr(self, name):
                    raise UserError(
                        f"unet.widths contains {width}, which is not a multiple of"
                        f" {name} = {getattr(self, name)}",
                        f"change the width or unet.{name}",
                    )
        minimum = CopyChannels(self.latent_channels).min_width
        if self.use_2d_rope and any(w < minimum or w // self.heads % 4 for w in self.widths):
            raise UserError(
                f"unet.widths = {self.widths} with use_2d_rope, {self.latent_channels} latent"
                f" channels and {self.heads} heads",
                f"use {minimum} or more, and a multiple of 4 for each head",
            )
        if any(width % 2 for width in self.widths):
            raise UserError(f"unet.widths = {self.widths}", "use even widths")

    @classmethod
    def from_diffusers(cls, config: Mapping[str, Any], **changes: Any) -> "UNetConfig":
        """Read the shape from the `config.json` of a diffusers `UNet2DConditionModel`.

        Args:
            config: The parsed file.
            changes: Fields that such a file does not have (motion width, temporal, ...).

        Raises:
            UserError: The file does not describe a Stable Diffusion 1.x UNet.
        """
        expected = {
            "act_fn": "silu",
            "flip_sin_to_cos": True,
            "freq_shift": 0,
            "use_linear_projection": False,
            "only_cross_attention": False,
            "dual_cross_attention": False,
            "class_embed_type": None,
            "addition_embed_type": None,
            "resnet_time_scale_shift": "default",
            "transformer_layers_per_block": 1,
        }
        for name, value in expected.items():
            if config.get(name, value) != value:
                raise UserError(
                    f"UNet config has {name} = {config[name]!r}, but Stable Diffusion 1.x has"
                    f" {value!r}",
                    "give a Stable Diffusion 1.x UNet",
                )
        try:
            # In these files "attention_head_dim" is the number of heads.
            fields = {
                "latent_channels": config["in_channels"],
                "widths": tuple(config["block_out_channels"]),
                "attention": tuple(
                    kind == "CrossAttnDownBlock2D" for kind in config["down_block_types"]
                ),
                "layers": config["layers_per_block"],
                "heads": config["attention_head_dim"],
                "norm_groups": config["norm_num_groups"],
                "image_embedding_width": config["cross_attention_dim"],
            }
        except KeyError as error:
            raise UserError(
                f"UNet config has no field {error}", "give the config.json of a diffusers UNet"
            ) from error
        return cls(**fields | changes)
