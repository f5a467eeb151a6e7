"""Fixed sine and cosine position tables.

All are computed in double precision on the CPU, even while a module is built on the meta device, so
that a lazily loaded network has them without a checkpoint.
"""

from functools import lru_cache

import torch
from torch import Tensor

# Relative to latents, whose standard deviation is about 1.
_CELL_AMPLITUDE = 2.0


def halves_table(positions_N: Tensor, width: int) -> Tensor:
    """Return (N, width): sines of all frequencies in the first half, cosines in the second.

    Frequency i of width/2 is 10000^(-i / (width/2)).
    """
    half = width // 2
    rate = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device="cpu") / half)
    angle = positions_N.to(torch.float64)[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], dim=1).float()


def token_table(tokens: int, width: int) -> Tensor:
    """Return the (tokens, width) table added to the motion tokens."""
    return halves_table(torch.arange(tokens, device="cpu"), width)


def patch_table(side: int, width: int) -> Tensor:
    """Return the (side², width) table of a square grid, row by row.

    The first half of the channels encodes the column, the second half the row.
    """
    index = torch.arange(side, device="cpu")
    column = halves_table(index.repeat(side), width // 2)
    row = halves_table(index.repeat_interleave(side), width // 2)
    return torch.cat([column, row], dim=1)


# Tensors made in inference mode could not be used in training later.
@torch.inference_mode(False)
@lru_cache(maxsize=16)
def cell_table(height: int, width: int, channels: int) -> Tensor:
    """Return (channels, height, width): relative position of each cell, at any resolution.

    Sines and cosines of 0.25 to 4 cycles from edge to edge; the first half of the channels encodes
    the row, the second half the column, and remainder channels of a width not divisible by 4 stay
    zero. The amplitude is large and the mean over channels is subtracted from every cell, so that
    norms over channels divide by nearly the same number everywhere. Cached per size; read-only.
    """
    cycles = 0.25 * 16.0 ** torch.linspace(0, 1, channels // 4, dtype=torch.float64, device="cpu")
    table = torch.zeros(channels, height, width, dtype=torch.float64, device="cpu")
    half = 2 * len(cycles)
    for axis, cells in enumerate((height, width)):
        position = (torch.arange(cells, dtype=torch.float64, device="cpu") + 0.5) / cells
        angle = 2 * torch.pi * cycles[:, None] * position
        code = torch.cat([angle.sin(), angle.cos()])
        table[axis * half : (axis + 1) * half] = code[:, :, None] if axis == 0 else code[:, None]
    return (_CELL_AMPLITUDE * (table - table.mean(dim=0))).float()


def frame_table(frames: int, width: int) -> Tensor:
    """Return (frames, width) with sine and cosine of each frequency side by side."""
    half = halves_table(torch.arange(frames, device="cpu"), width)
    return torch.stack(half.chunk(2, dim=1), dim=2).flatten(1)
