"""Temporal modules: self-attention over frames, of AnimateDiff's shape."""

from torch import Tensor, nn

from xnemo.model.layers.residual_transformer import ResidualTransformer


class TemporalModule(nn.Module):
    """Each cell attends to itself in all frames of the clip, both ways in time."""

    def __init__(self, width: int, heads: int, groups: int, max_frames: int) -> None:
        super().__init__()
        self.temporal_transformer = ResidualTransformer(width, heads, groups, positions=max_frames)

    def forward(self, x_NCHW: Tensor, frames: int) -> Tensor:
        """Return the feature map; N is samples × `frames`, the frames of a sample adjacent."""
        return self.temporal_transformer.across_frames(x_NCHW, frames)
