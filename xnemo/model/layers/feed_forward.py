"""The GEGLU feed-forward layer of all transformers, computed in blocks of tokens at inference."""

import math

import torch
from diffusers.models.attention import FeedForward
from torch import Tensor

# Bytes of the widest intermediate of a block: on a CPU what fits its caches, on a GPU enough to
# keep it busy.
_CPU_BLOCK = 2**22
_GPU_BLOCK = 2**28


class GatedFeedForward(FeedForward):
    """GEGLU with diffusers' names: project to 8×, gate one half by the other, project back.

    The widened tokens of a clip are the largest tensor of a UNet (1 GB per pass at the published
    size in bf16). At inference they are computed block by block and stay in the cache; the numbers
    are the same. Training keeps them for the backward pass, and a compiler forms its own blocks, so
    both run all tokens at once.
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
        # Equal sizes: a short last block would take as long as a full one.
        blocks = flat_TC.chunk(math.ceil(len(flat_TC) / rows))
        return torch.cat([super(GatedFeedForward, self).forward(b) for b in blocks]).view(
            tokens.shape
        )
