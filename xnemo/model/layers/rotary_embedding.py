"""2-D rotary position embedding (RoPE; Su et al. 2021) for self-attention on a feature map.

Attention then depends on the distance between query and key, not on their absolute positions.
Rotating a query further makes it attend to a neighbouring cell, by the same offset everywhere:
motion, which is added to the features, can thus shift what is fetched from the reference. Not
published; chosen so that networks without pretrained weights learn in a short run.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

# Cycles from edge to edge of the slowest and the fastest pair of channels. Between two cells of a
# 16×16 grid the fastest rotates by a little more than a quarter cycle.
MIN_FREQUENCY, MAX_FREQUENCY = 0.25, 5.0


def rope_angles(grid: tuple[int, int], channels: int, like: Tensor) -> Tensor:
    """Return cosines and sines (2, height·width, D/2) of the angles of a grid, row by row.

    Args:
        grid: Height and width in cells.
        channels: D, channels per head; a multiple of 4.
        like: Gives dtype and device.
    """
    return _angles(*grid, channels, like.dtype, like.device)


def apply_rope(x_NHLD: Tensor, angles: Tensor) -> Tensor:
    """Rotate the pairs of channels (i, i + D/2) by the angles of `rope_angles`."""
    first, second = x_NHLD.chunk(2, dim=-1)
    cos, sin = angles[0], angles[1]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def rope_frequencies(channels: int) -> Tensor:
    """Return (D/4,) cycles from edge to edge, slowest first, for D channels per head.

    The same frequencies encode rows and columns.
    """
    steps = torch.linspace(0, 1, channels // 4, dtype=torch.float64, device="cpu")
    return MIN_FREQUENCY * (MAX_FREQUENCY / MIN_FREQUENCY) ** steps


# Tensors made in inference mode could not be used in training later.
@torch.inference_mode(False)
@lru_cache(maxsize=128)
def _angles(
    height: int, width: int, channels: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    radians = 2 * math.pi * rope_frequencies(channels)
    y, x = (
        (torch.arange(size, dtype=torch.float64, device="cpu") + 0.5) / size
        for size in (height, width)
    )
    rows = (y[:, None] * radians)[:, None].expand(-1, width, -1)
    columns = (x[:, None] * radians)[None].expand(height, -1, -1)
    angle = torch.cat([rows, columns], dim=2).flatten(0, 1)
    return torch.stack([angle.cos(), angle.sin()]).to(device, dtype)
