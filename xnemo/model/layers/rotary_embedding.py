"""Places of cells on a plane, as turns of the queries and keys of an attention.

Su et al. 2021, in two dimensions. What a query finds depends on how far away it lies, not on where.
A query that asks for its own place asks for a neighbour once its channels are turned further, by
the same turn wherever it is: so motion, which is added to features, can move what is fetched from
the reference.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

# Turns from edge to edge of the slowest pair of channels, and of the fastest: between two cells of
# a 16×16 grid that one turns by a little more than a quarter.
SLOWEST, FASTEST = 0.25, 5.0


def place_turns(grid: tuple[int, int], channels: int, like: Tensor) -> Tensor:
    """Return the turns of all cells of a (height, width) grid, row by row, for D channels a head.

    Cosines and sines (2, height·width, D/2), in the type and on the device of `like`.
    """
    return _turns(*grid, channels, like.dtype, like.device)


def turned(x_NHLD: Tensor, turns: Tensor) -> Tensor:
    """Return channels turned in pairs (i, i + D/2)."""
    first, second = x_NHLD.chunk(2, dim=-1)
    cos, sin = turns[0], turns[1]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def turns_per_picture(channels: int) -> Tensor:
    """Return the turns from edge to edge of the pairs that tell the row, and as many the column.

    (D/4,) for D channels a head, the slowest first.
    """
    steps = torch.linspace(0, 1, channels // 4, dtype=torch.float64, device="cpu")
    return SLOWEST * (FASTEST / SLOWEST) ** steps


# Inference mode would mark what outlives it as unfit for training.
@torch.inference_mode(False)
@lru_cache(maxsize=128)
def _turns(
    height: int, width: int, channels: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    turns = 2 * math.pi * turns_per_picture(channels)
    y, x = (
        (torch.arange(size, dtype=torch.float64, device="cpu") + 0.5) / size
        for size in (height, width)
    )
    rows = (y[:, None] * turns)[:, None].expand(-1, width, -1)
    columns = (x[:, None] * turns)[None].expand(height, -1, -1)
    angle = torch.cat([rows, columns], dim=2).flatten(0, 1)
    return torch.stack([angle.cos(), angle.sin()]).to(device, dtype)
