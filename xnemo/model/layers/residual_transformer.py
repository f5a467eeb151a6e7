"""The skeleton of motion and temporal modules: a residual transformer on a feature map."""

from torch import Tensor, nn

from xnemo.model.layers.transformer_block import TransformerBlock
from xnemo.model.layers.zero_linear import ZeroLinear


class ResidualTransformer(nn.Module):
    """GroupNorm, linear in, one transformer block, linear out (zero at first), added to the input.

    Because the output layer starts at zero, a new module changes nothing until it is trained.

    Args:
        width: Channels of the feature map.
        heads: Attention heads.
        groups: Groups of the entry norm.
        context_width: Width of cross-attended tokens; self-attention where None.
        positions: Most frames of temporal self-attention; no positions where None.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        groups: int,
        context_width: int | None = None,
        positions: int | None = None,
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.proj_in = nn.Linear(width, width)
        self.transformer_blocks = nn.ModuleList(
            [TransformerBlock(width, heads, 2, context_width, positions)]
        )
        self.proj_out = ZeroLinear(width, width)

    def across_space(self, x_NCHW: Tensor, context_NMD: Tensor) -> Tensor:
        """Let every cell of each frame attend to that frame's context tokens."""
        height, width = x_NCHW.shape[2:]
        tokens_NLC = self.norm(x_NCHW).flatten(2).transpose(1, 2)
        tokens_NLC = self.proj_in(tokens_NLC)
        for block in self.transformer_blocks:
            tokens_NLC = block(tokens_NLC, context_NMD)
        tokens_NLC = self.proj_out(tokens_NLC)
        return tokens_NLC.transpose(1, 2).unflatten(2, (height, width)) + x_NCHW

    def across_frames(self, x_NCHW: Tensor, frames: int) -> Tensor:
        """Let every cell attend to itself in all frames; N is samples × frames, frames inner."""
        height, width = x_NCHW.shape[2:]
        tokens_BFLC = self.norm(x_NCHW).flatten(2).transpose(1, 2).unflatten(0, (-1, frames))
        cells = tokens_BFLC.shape[2]
        tokens_NFC = self.proj_in(tokens_BFLC.transpose(1, 2).flatten(0, 1))
        for block in self.transformer_blocks:
            tokens_NFC = block(tokens_NFC)
        tokens_BLFC = self.proj_out(tokens_NFC).unflatten(0, (-1, cells))
        x_out = tokens_BLFC.permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, (height, width))
        return x_out + x_NCHW
