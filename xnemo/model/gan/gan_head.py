"""The GAN head: a StyleGAN2-like generator, second decoder of the motion latent."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from preprocessing.errors import UserError
from xnemo.model.gan.appearance_encoder import AppearanceEncoder
from xnemo.model.gan.convolutions import ModulatedConv2d


@dataclass(frozen=True)
class GanHeadConfig:
    """Shape of the GAN head; `GanHead(**asdict(config))` builds it."""

    # Side of the square reference and of the generated image, in pixels. Not published; chosen
    # because 256 is the resolution at which the paper evaluates.
    image_size: int = 256
    # Channels per resolution, finest first, used by the appearance encoder downwards and by the
    # synthesis upwards. Not published; chosen because they are StyleGAN2's for 256² down to 8².
    widths: tuple[int, ...] = (64, 128, 256, 512, 512, 512)
    # Width of the motion vector; must equal the motion encoder's.
    motion_dim: int = 512
    # Width of the pooled appearance vector. Not published; chosen equal to the motion vector, so
    # that neither half of the style outweighs the other.
    appearance_dim: int = 512
    # Which vector of the motion encoder the head receives: "face" (without the box) suits tight
    # crops; "fused" suits wide crops and gives the box layers GAN gradient too.
    motion_source: Literal["face", "fused"] = "face"
    # Add noise of learned strength to every layer, as StyleGAN2 does. Off by default: the head
    # supervises the motion latent and does not need random texture.
    noise: bool = False

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or min(self.widths) < 1:
            raise UserError(
                f"gan.widths = {self.widths}",
                "give at least two positive widths, one per resolution, finest first",
            )
        halvings = len(self.widths) - 1
        if self.image_size % 2**halvings or self.image_size < 4 * 2**halvings:
            raise UserError(
                f"gan.image_size = {self.image_size} cannot be halved {halvings} times to >= 4",
                f"use a multiple of {2**halvings}, at least {4 * 2**halvings}, or fewer gan.widths",
            )
        for name in ("motion_dim", "appearance_dim"):
            if getattr(self, name) < 1:
                raise UserError(f"gan.{name} = {getattr(self, name)}", "use a positive width")


class SynthesisLayer(nn.Module):
    """One modulated 3×3 convolution, with optional noise and a leaky ReLU."""

    def __init__(self, in_channels: int, out_channels: int, style_dim: int, noise: bool) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(in_channels, out_channels, 3, style_dim)
        # Created only when used: a parameter without gradient would stall DDP.
        self.noise_strength = nn.Parameter(torch.zeros(())) if noise else None

    def forward(self, x_BCHW: Tensor, style_BD: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return the activated features; `seeds` holds one noise seed per sample."""
        x = self.conv(x_BCHW, style_BD)
        if self.noise_strength is not None:
            noise = [
                torch.randn(1, *x.shape[2:], generator=torch.Generator().manual_seed(seed))
                for seed in seeds
            ]
            x = x + self.noise_strength.to(x.dtype) * torch.stack(noise).to(x)
        return F.leaky_relu(x, 0.2) * math.sqrt(2)


class SynthesisStage(nn.Module):
    """Double the resolution, convolve twice, and add this resolution to the RGB image."""

    def __init__(
        self, in_channels: int, out_channels: int, style_dim: int, upsample: bool, noise: bool
    ) -> None:
        super().__init__()
        self.upsample = upsample
        self.layers = nn.ModuleList(
            [SynthesisLayer(out_channels, out_channels, style_dim, noise)]
            if not upsample
            else [
                SynthesisLayer(in_channels, out_channels, style_dim, noise),
                SynthesisLayer(out_channels, out_channels, style_dim, noise),
            ]
        )
        self.to_rgb = ModulatedConv2d(out_channels, 3, 1, style_dim, demodulate=False)

    def forward(
        self, x_BCHW: Tensor, rgb_B3HW: Tensor | None, style_BD: Tensor, seeds: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Return the features and the RGB sum at this stage's resolution."""
        if self.upsample:
            # Bilinear doubling is StyleGAN2's [1, 3, 3, 1] filter.
            x_BCHW = F.interpolate(x_BCHW, scale_factor=2, mode="bilinear")
        for layer in self.layers:
            x_BCHW = layer(x_BCHW, style_BD, seeds)
        rgb = self.to_rgb(x_BCHW, style_BD)
        if rgb_B3HW is not None:
            rgb = rgb + F.interpolate(rgb_B3HW, scale_factor=2, mode="bilinear")
        return x_BCHW, rgb


class GanHead(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Generate the target frame from a reference image and a motion vector.

    The appearance encoder's map replaces StyleGAN2's learned constant; the style of every layer is
    `[f_app, f_mot]`, without a mapping network. The loss on the output reaches the motion encoder
    only through the style, so the latent must encode the facial motion of the driving video. The
    paper describes the head as StyleGAN-like; its layers are not published. Used in training only.
    Arguments are the fields of `GanHeadConfig`.
    """

    @register_to_config
    def __init__(
        self,
        image_size: int = 256,
        widths: Sequence[int] = (64, 128, 256, 512, 512, 512),
        motion_dim: int = 512,
        appearance_dim: int = 512,
        motion_source: str = "face",
        noise: bool = False,
    ) -> None:
        super().__init__()
        self.appearance_encoder = AppearanceEncoder(widths, appearance_dim)
        style_dim = appearance_dim + motion_dim
        coarse_first = list(reversed(widths))
        self.stages = nn.ModuleList(
            SynthesisStage(previous, width, style_dim, upsample=i > 0, noise=noise)
            for i, (previous, width) in enumerate(
                zip([coarse_first[0], *coarse_first], coarse_first, strict=False)
            )
        )

    def forward(
        self, reference_BCHW: Tensor, motion_BD: Tensor, noise_seeds: Sequence[int] | None = None
    ) -> Tensor:
        """Return images (B, 3, image_size, image_size) in [-1, 1].

        Args:
            reference_BCHW: Reference images in [-1, 1], image_size².
            motion_BD: One motion vector (motion_dim) per image.
            noise_seeds: One seed per sample where the head has noise; zeros if not given, so that
                the result never depends on a global generator.
        """
        x, appearance_BD = self.appearance_encoder(reference_BCHW)
        style_BD = torch.cat([appearance_BD, motion_BD.to(appearance_BD.dtype)], dim=1)
        seeds = noise_seeds if noise_seeds is not None else [0] * len(style_BD)
        rgb: Tensor | None = None
        for stage in self.stages:
            x, rgb = stage(x, rgb, style_BD, seeds)
        assert rgb is not None
        return torch.tanh(rgb)
