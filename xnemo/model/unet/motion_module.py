"""Motion modules: the only way by which a driving frame reaches the denoiser."""

from torch import Tensor, nn

from xnemo.model.layers.residual_transformer import ResidualTransformer


class MotionModule(nn.Module):
    """Cross-attention from a frame's cells to the frame's motion tokens.

    Without spatial axes on the motion side, the driver's facial geometry has nowhere to leak from.
    The child's name is the official checkpoint's, though nothing in it is temporal.
    """

    def __init__(self, width: int, heads: int, groups: int, motion_width: int) -> None:
        super().__init__()
        self.temporal_transformer = ResidualTransformer(
            width, heads, groups, context_width=motion_width
        )

    def forward(self, x_NCHW: Tensor, motion_NLD: Tensor) -> Tensor:
        """Return the feature map moved by each frame's tokens (N, L, D)."""
        return self.temporal_transformer.across_space(x_NCHW, motion_NLD)
