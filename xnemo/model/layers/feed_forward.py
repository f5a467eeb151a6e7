"""The feed-forward layer of all transformers, in blocks of tokens where nothing is learnt."""

import math

import torch
from diffusers.models.attention import FeedForward
from torch import Tensor

# Bytes of the widest intermediate of a block: on a CPU what its caches hold, on a GPU enough to
# keep it busy.
_CPU_BLOCK = 2**22
_GPU_BLOCK = 2**28


class GatedFeedForward(FeedForward):
    """GEGLU, with diffusers' names: widen eightfold, gate one half by the other, narrow.

    The widened tokens of a clip are by far the largest tensor of a UNet (a gigabyte a pass, at the
    published size in bf16). In inference they are made and used up block by block, and so never
    leave the cache; the numbers stay the same. Training keeps them for the backward pass anyway,
    and a compiler makes blocks of its own.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, activation_fn="geglu")

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (..., C) tokens of the same shape."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return super().forward(tokens)
        block_bytes = _CPU_BLOCK if tokens.device.type == "cpu" else _GPU_BLOCK
        width = tokens.shape[-1]
        rows = max(1, block_bytes // (8 * width * tokens.element_size()))
        if tokens.numel() <= rows * width:
            return super().forward(tokens)
        flat_TC = tokens.reshape(-1, width)
        # Of equal size: a short last block would take as long as a full one.
        blocks = flat_TC.chunk(math.ceil(len(flat_TC) / rows))
        return torch.cat([super(GatedFeedForward, self).forward(b) for b in blocks]).view(
            tokens.shape
        )
