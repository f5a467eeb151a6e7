"""The multi-scale patch discriminator (pix2pixHD, Wang et al. 2018) of the GAN head."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from preprocessing.errors import UserError
from xnemo.model.gan.convolutions import SpectralConv2d

NORMS = ("spectral_instance", "spectral", "instance", "none")


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Shape of the discriminator; `Discriminator(**asdict(config))` builds it."""

    # Number of resolutions, each half the one before. Not published; chosen because the motion
    # encoder's ancestors (PC-AVS, PD-FGC) train with two.
    scales: int = 2
    # Channels after the first convolution, doubled per layer. Not published; the ancestors' value.
    width: int = 64
    # Maximum channels of a layer. Not published; the ancestors' value.
    max_width: int = 512
    # Stride-2 convolutions per scale; three give patches of 70 pixels. Not published; as above.
    layers: int = 3
    # Spectral normalisation of the weights, instance normalisation of the features, both or none.
    # Not published; the ancestors use both.
    norm: Literal["spectral_instance", "spectral", "instance", "none"] = "spectral_instance"

    def __post_init__(self) -> None:
        for name in ("scales", "width", "max_width", "layers"):
            if getattr(self, name) < 1:
                raise UserError(f"discriminator.{name} = {getattr(self, name)}", "use 1 or more")
        if self.norm not in NORMS:
            raise UserError(f"discriminator.norm = {self.norm!r} is unknown", f"use one of {NORMS}")


class DiscriminatorOutput(NamedTuple):
    """Output of one scale: patch logits (B, 1, h, w) and the features of every layer before."""

    logits: Tensor
    features: list[Tensor]


class PatchDiscriminator(nn.Module):
    """One scale: stride-2 convolutions, one stride-1 convolution, patch logits."""

    def __init__(self, width: int, max_width: int, layers: int, norm: str) -> None:
        super().__init__()
        make_conv = SpectralConv2d if norm.startswith("spectral") else nn.Conv2d
        widths = [min(width * 2**i, max_width) for i in range(layers + 1)]
        self.convs = nn.ModuleList()
        self.norms = nn.ModuleList()
        previous = 3
        for i, channels in enumerate(widths):
            stride = 2 if i < layers else 1
            self.convs.append(make_conv(previous, channels, 4, stride=stride, padding=2))
            # None on the first layer: it would remove the absolute colours.
            has_norm = norm.endswith("instance") and i > 0
            self.norms.append(nn.InstanceNorm2d(channels) if has_norm else nn.Identity())
            previous = channels
        self.to_logits = make_conv(previous, 1, 4, stride=1, padding=2)

    def forward(self, image_BCHW: Tensor) -> DiscriminatorOutput:
        """Return patch logits and features of (B, 3, H, W) images."""
        features = []
        x = image_BCHW
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.leaky_relu(norm(conv(x)), 0.2)
            features.append(x)
        return DiscriminatorOutput(self.to_logits(x), features)


class Discriminator(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Multi-scale patch discriminator; arguments as in `DiscriminatorConfig`."""

    @register_to_config
    def __init__(
        self,
        scales: int = 2,
        width: int = 64,
        max_width: int = 512,
        layers: int = 3,
        norm: str = "spectral_instance",
    ) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(
            PatchDiscriminator(width, max_width, layers, norm) for _ in range(scales)
        )

    def forward(self, image_BCHW: Tensor) -> list[DiscriminatorOutput]:
        """Return (logits, features) per scale, finest first, of (B, 3, H, W) images in [-1, 1]."""
        outputs = []
        for i, discriminator in enumerate(self.discriminators):
            if i:
                image_BCHW = F.avg_pool2d(image_BCHW, 3, 2, 1, count_include_pad=False)
            outputs.append(discriminator(image_BCHW))
        return outputs
