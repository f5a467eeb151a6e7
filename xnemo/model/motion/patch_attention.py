"""Self-attention among patches of a feature map, inside the motion encoder."""

from collections.abc import Callable

from diffusers.models.embeddings import PatchEmbed
from torch import Tensor, nn

from xnemo.model.layers.position_embeddings import patch_table
from xnemo.model.layers.transformer_block import TransformerBlock, ZeroLinear


class PatchAttention(nn.Module):
    """Cut the map into patches, apply self-attention among them, and add the result to the map.

    Each token of `width` channels is unfolded into the pixels of its patch, width/patch² channels
    each; a zero-initialised linear layer projects these to the map's channels. State-dict names and
    shapes are those of the official checkpoint.

    Args:
        channels: Channels of the map.
        patch: Side of a patch in pixels.
        grid: Patches per side; the map is (grid·patch)².
        width: Channels of a token; a multiple of patch² and of 4.
        heads: Attention heads.
        groups: Groups of the input norm.
    """

    positions: Tensor

    def __init__(
        self, channels: int, patch: int, grid: int, width: int, heads: int, groups: int
    ) -> None:
        super().__init__()
        self.patch, self.grid = patch, grid
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, heads, attentions=1)])
        self.proj_out = ZeroLinear(width // patch**2, channels)
        side = grid * patch
        self.pos_embed = PatchEmbed(side, side, patch, channels, width, pos_embed_type=None)
        self.register_buffer("positions", patch_table(grid, width)[None], persistent=False)
        # Set by ModelMixin.enable_gradient_checkpointing of the model that contains this block.
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func: Callable[..., Tensor] | None = None

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return a map of the same shape."""
        if self.gradient_checkpointing and self.training and self._gradient_checkpointing_func:
            return self._gradient_checkpointing_func(self._attend, x_NCHW)
        return self._attend(x_NCHW)

    def _attend(self, x_NCHW: Tensor) -> Tensor:
        tokens_NLC = self.pos_embed(self.norm(x_NCHW))
        tokens_NLC = tokens_NLC + self.positions.to(tokens_NLC.dtype)
        for block in self.transformer_blocks:
            tokens_NLC = block(tokens_NLC)
        # (N, rows, columns, row in patch, column in patch, channels)
        pixels = tokens_NLC.unflatten(2, (self.patch, self.patch, -1))
        pixels = self.proj_out(pixels.unflatten(1, (self.grid, self.grid)))
        return pixels.permute(0, 5, 1, 3, 2, 4).reshape(x_NCHW.shape) + x_NCHW
