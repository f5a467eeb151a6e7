"""The face-alignment network (FAN) with patch attention, from a face crop to one vector.

State-dict names are those of the official checkpoint.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xnemo.model.motion.config import MotionEncoderConfig
from xnemo.model.motion.patch_attention import PatchAttention

# Mean of the standardised last map, in standard deviations: five of six cells pass the ReLU.
_MEAN = 1.0


def _conv3(in_width: int, out_width: int) -> nn.Conv2d:
    return nn.Conv2d(in_width, out_width, 3, padding=1, bias=False)


class HierarchicalBlock(nn.Module):
    """Three pre-activated convolutions whose outputs are concatenated and added to the input.

    They give a half, a quarter and a quarter of `out_width`.
    """

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        half, quarter = out_width // 2, out_width // 4
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv1 = _conv3(in_width, half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv2 = _conv3(half, quarter)
        self.bn3 = nn.BatchNorm2d(quarter)
        self.conv3 = _conv3(quarter, quarter)
        self.downsample = (
            nn.Sequential(
                nn.BatchNorm2d(in_width), nn.ReLU(), nn.Conv2d(in_width, out_width, 1, bias=False)
            )
            if in_width != out_width
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, out_width, H, W)."""
        first = self.conv1(F.relu(self.bn1(x)))
        second = self.conv2(F.relu(self.bn2(first)))
        third = self.conv3(F.relu(self.bn3(second)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return torch.cat([first, second, third], dim=1) + shortcut


class Hourglass(nn.Module):
    """A recursive encoder-decoder; level `depth` is the outermost.

    At each level the upper branch keeps the resolution and has dropout in training; the lower
    branch works at half the resolution.
    """

    def __init__(self, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.depth, self.dropout = depth, dropout
        for level in range(depth, 0, -1):
            self.add_module(f"b1_{level}", HierarchicalBlock(width, width))
            self.add_module(f"b2_{level}", HierarchicalBlock(width, width))
            if level == 1:
                self.b2_plus_1 = HierarchicalBlock(width, width)
            self.add_module(f"b3_{level}", HierarchicalBlock(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the input's shape."""
        return self._descend(self.depth, x)

    def _descend(self, level: int, x: Tensor) -> Tensor:
        upper = self.get_submodule(f"b1_{level}")(x)
        upper = F.dropout(upper, self.dropout, self.training)
        lower = self.get_submodule(f"b2_{level}")(F.max_pool2d(x, 2))
        lower = self._descend(level - 1, lower) if level > 1 else self.b2_plus_1(lower)
        lower = self.get_submodule(f"b3_{level}")(lower)
        lower = F.interpolate(lower, upper.shape[-2:], mode="bilinear", align_corners=False)
        return upper + lower


class FaceAlignmentBackbone(nn.Module):
    """(N, 3, S, S) face crops to (N, latent_width) vectors, S = `config.image_size`."""

    def __init__(self, config: MotionEncoderConfig) -> None:
        super().__init__()
        self.standardise = config.standardise
        stem_width, heatmaps = config.stem_width, config.heatmaps
        middle, width = 2 * stem_width, 4 * stem_width
        grid = config.image_size // 8
        self.conv1 = nn.Conv2d(3, stem_width, 7, stride=2, padding=3)
        self.bn1 = nn.BatchNorm2d(stem_width)
        self.conv2 = HierarchicalBlock(stem_width, middle)
        self.conv3 = HierarchicalBlock(middle, middle)
        self.conv4 = HierarchicalBlock(middle, width)
        self.m0 = Hourglass(width, config.hourglass_depth, config.dropout)
        self.top_m_0 = HierarchicalBlock(width, width)
        self.conv_last0 = nn.Conv2d(width, width, 1)
        self.l0 = nn.Conv2d(width, heatmaps, 1)
        self.bn_end0 = nn.BatchNorm2d(width)
        self.conv6 = nn.Conv2d(heatmaps, 1, 3, stride=2, padding=1)
        self.fc = nn.Linear(grid**2, config.latent_width)
        self.bn5 = nn.BatchNorm2d(heatmaps)
        shape = (config.attention_width, config.attention_heads, config.norm_groups)
        self.att_1 = PatchAttention(middle, 4, grid, *shape)
        self.att_2 = PatchAttention(width, 2, grid, *shape)
        self.att_3 = PatchAttention(width, 2, grid, *shape)

    def forward(self, image_NCHW: Tensor) -> Tensor:
        """Return one vector (N, latent_width) per crop."""
        x = F.relu(self.bn1(self.conv1(image_NCHW)))
        x = F.max_pool2d(self.att_1(self.conv2(x)), 2)
        x = self.att_2(self.conv4(self.conv3(x)))
        x = self.top_m_0(self.m0(x))
        x = self.att_3(self.bn_end0(self.conv_last0(x)))
        x = self.l0(F.relu(x))
        x = self.conv6(F.relu(self.bn5(x))).flatten(1)
        if self.standardise:
            x = F.layer_norm(x, x.shape[1:]) + _MEAN
        return self.fc(F.relu(x))
