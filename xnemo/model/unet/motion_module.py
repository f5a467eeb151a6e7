"""Motion and temporal modules: residual transformers on a feature map, of AnimateDiff's shape.

State-dict names are those of the official checkpoint; hence the child `temporal_transformer`, also
of the motion module, in which nothing is temporal.
"""

from torch import Tensor, nn

from xnemo.model.layers.transformer_block import TransformerBlock, ZeroLinear


class ResidualTransformer(nn.Module):
    """GroupNorm, linear, one transformer block, zero-initialised linear; added to the input.

    Args:
        width: Channels of the feature map.
        heads: Attention heads.
        groups: Groups of the input norm.
        context_width: Width of cross-attended tokens; self-attention where None.
        positions: Maximum frames of temporal self-attention; no positions where None.
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

    def forward(
        self, x_NCHW: Tensor, context_NMD: Tensor | None = None, frames: int | None = None
    ) -> Tensor:
        """Return a feature map of the same shape.

        Args:
            x_NCHW: N is samples × frames, the frames of a sample adjacent.
            context_NMD: Tokens that the cells of each frame attend to.
            frames: Attend across this number of frames, cell by cell, instead of across cells.
        """
        height, width = x_NCHW.shape[2:]
        tokens = self.norm(x_NCHW).flatten(2).transpose(1, 2)
        if frames is not None:
            tokens_BFLC = tokens.unflatten(0, (-1, frames))
            tokens = tokens_BFLC.transpose(1, 2).flatten(0, 1)
        tokens = self.proj_in(tokens)
        for block in self.transformer_blocks:
            tokens = block(tokens, context_NMD)
        tokens = self.proj_out(tokens)
        if frames is None:
            x_NCL = tokens.transpose(1, 2)
        else:
            tokens_BLFC = tokens.unflatten(0, (-1, height * width))
            x_NCL = tokens_BLFC.permute(0, 2, 3, 1).flatten(0, 1)
        return x_NCL.unflatten(2, (height, width)) + x_NCHW


class MotionModule(nn.Module):
    """Cross-attention from the cells of a frame to the frame's motion tokens.

    The only path from a driving frame to the denoiser. The motion tokens have no spatial axes, so
    facial geometry of the driving video cannot leak through them.
    """

    def __init__(self, width: int, heads: int, groups: int, motion_width: int) -> None:
        super().__init__()
        self.temporal_transformer = ResidualTransformer(
            width, heads, groups, context_width=motion_width
        )

    def forward(self, x_NCHW: Tensor, motion_NLD: Tensor) -> Tensor:
        """Return (N, C, H, W) features conditioned on each frame's motion tokens (N, L, D)."""
        return self.temporal_transformer(x_NCHW, motion_NLD)


class TemporalModule(nn.Module):
    """Self-attention of each cell across all frames of the clip, bidirectional."""

    def __init__(self, width: int, heads: int, groups: int, max_frames: int) -> None:
        super().__init__()
        self.temporal_transformer = ResidualTransformer(width, heads, groups, positions=max_frames)

    def forward(self, x_NCHW: Tensor, frames: int) -> Tensor:
        """Return (N, C, H, W) features; N is samples × `frames`, a sample's frames adjacent."""
        return self.temporal_transformer(x_NCHW, frames=frames)
