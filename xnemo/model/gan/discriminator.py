"""The multi-scale patch discriminator that judges the GAN head's pictures."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from preprocessing.errors import UserError
from xnemo.model.layers.full_precision import full_precision

NORMS = ("spectral_instance", "spectral", "instance", "none")


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Shape of the discriminator; `Discriminator(**asdict(config))` builds it."""

    # How many resolutions judge, each half the one before. Not published; chosen because the
    # motion encoder's ancestors train with two.
    scales: int = 2
    # Channels after the first convolution; doubled per layer. Not published; the ancestors' value.
    width: int = 64
    # Most channels a layer may have.
    max_width: int = 512
    # Stride-2 convolutions per scale; three give patches of 70 pixels. Not published; as above.
    layers: int = 3
    # Spectral normalisation of the weights, instance normalisation of the features, both or none.
    norm: Literal["spectral_instance", "spectral", "instance", "none"] = "spectral_instance"

    def __post_init__(self) -> None:
        for name in ("scales", "width", "max_width", "layers"):
            if getattr(self, name) < 1:
                raise UserError(f"discriminator.{name} = {getattr(self, name)}", "use 1 or more")
        if self.norm not in NORMS:
            raise UserError(f"discriminator.norm = {self.norm!r} is unknown", f"use one of {NORMS}")


class DiscriminatorOutput(NamedTuple):
    """What one scale says: patch logits (B, 1, h, w) and the features of every layer below."""

    logits: Tensor
    features: list[Tensor]


class SpectralConv2d(nn.Conv2d):
    """A convolution divided by its largest singular value, which one power step a pass estimates.

    The estimate is updated only while the weight is trained, not in the generator's pass through a
    frozen discriminator, so the discriminator's state depends on its own steps alone. The weight
    stays an ordinary parameter of this module, which ZeRO-3 requires to gather it.
    """

    left: Tensor
    right: Tensor

    def __init__(self, *args: int, **kwargs: int) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        matrix = self.weight.detach().flatten(1)
        # On the weight's device, which is "meta" while `from_pretrained` builds.
        left = torch.ones(matrix.shape[0], device=matrix.device, dtype=matrix.dtype)
        # A discriminator that is used before it is trained needs an estimate that is near already.
        for _ in range(10):
            right = F.normalize(matrix.T @ left, dim=0)
            left = F.normalize(matrix @ right, dim=0)
        self.register_buffer("left", left)
        self.register_buffer("right", right)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the convolution with the normalised weight."""
        # The norm is a statistic: bf16's 8 bits would make it wander.
        with full_precision(x_BCHW):
            matrix = self.weight.flatten(1).float()
            left, right = self.left.float(), self.right.float()
            if self.training and self.weight.requires_grad and torch.is_grad_enabled():
                with torch.no_grad():
                    right = F.normalize(matrix.T @ left, dim=0)
                    left = F.normalize(matrix @ right, dim=0)
                    self.left.copy_(left)
                    self.right.copy_(right)
            weight = (self.weight.float() / torch.dot(left, matrix @ right)).to(self.weight.dtype)
        return self._conv_forward(x_BCHW, weight, self.bias)


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
            # The first layer sees colours as they are: normalising them away would hide them.
            has_norm = norm.endswith("instance") and i > 0
            self.norms.append(nn.InstanceNorm2d(channels) if has_norm else nn.Identity())
            previous = channels
        self.to_logits = make_conv(previous, 1, 4, stride=1, padding=2)

    def forward(self, image_BCHW: Tensor) -> DiscriminatorOutput:
        """Return patch logits and features of (B, 3, H, W) pictures."""
        features = []
        x = image_BCHW
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.leaky_relu(norm(conv(x)), 0.2)
            features.append(x)
        return DiscriminatorOutput(self.to_logits(x), features)


class Discriminator(ModelMixin, ConfigMixin):
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
        """Return (logits, features) per scale, finest first, of pictures in [-1, 1]."""
        outputs = []
        for i, discriminator in enumerate(self.discriminators):
            if i:
                image_BCHW = F.avg_pool2d(image_BCHW, 3, 2, 1, count_include_pad=False)
            outputs.append(discriminator(image_BCHW))
        return outputs
