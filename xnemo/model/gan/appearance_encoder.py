"""The convolutional appearance encoder of the GAN head."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


def _norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with 32 groups, or fewer where the width requires it."""
    return nn.GroupNorm(math.gcd(32, channels), channels)


class DownStage(nn.Module):
    """Halve the resolution with two pre-activated convolutions and an averaged skip."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(in_channels), _norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.skip = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the (B, out_channels, H/2, W/2) features."""
        y = self.conv1(F.silu(self.norm1(x_BCHW)))
        y = self.conv2(F.silu(self.norm2(y)))
        return (y + self.skip(F.avg_pool2d(x_BCHW, 2))) / math.sqrt(2)


class AppearanceEncoder(nn.Module):
    """Encode a reference image into a coarse map and one appearance vector.

    The paper shows this encoder in the overview figure only. Its layers are not published; chosen
    as a stem and one stride-2 residual stage per halving because that is the common small encoder.

    Args:
        widths: Channels per resolution, finest first; `len(widths) - 1` halvings.
        appearance_dim: Width of the pooled vector.
    """

    def __init__(self, widths: Sequence[int], appearance_dim: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1)
        self.stages = nn.ModuleList(DownStage(fine, coarse) for fine, coarse in pairwise(widths))
        self.norm = _norm(widths[-1])
        self.to_vector = nn.Linear(widths[-1], appearance_dim)

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map (B, widths[-1], h, w) and the vector (B, appearance_dim) of an image."""
        x = self.stem(image_BCHW)
        for stage in self.stages:
            x = stage(x)
        x = F.silu(self.norm(x))
        return x, self.to_vector(x.mean(dim=(2, 3)))
