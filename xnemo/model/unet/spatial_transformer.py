"""Stable Diffusion's spatial transformer, whose self-attention also reads reference tokens."""

from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from xnemo.model.layers.feed_forward import GatedFeedForward
from xnemo.model.unet.reference_attention import ReferenceAttention, ReferenceTokens


class SpatialBlock(nn.Module):
    """Self-attention with reference, cross-attention to the image embedding, feed-forward.

    Args:
        width: Channels of the tokens.
        heads: Attention heads; `width` is a multiple.
        image_embedding_width: Channels of the image embedding.
        use_2d_rope: Whether self-attention uses 2-D RoPE.
    """

    def __init__(
        self, width: int, heads: int, image_embedding_width: int, use_2d_rope: bool
    ) -> None:
        super().__init__()
        self.attn1 = ReferenceAttention(width, heads, use_2d_rope)
        self.norm1 = nn.LayerNorm(width)
        self.attn2 = Attention(width, image_embedding_width, heads=heads, dim_head=width // heads)
        self.norm2 = nn.LayerNorm(width)
        self.ff = GatedFeedForward(width)
        self.norm3 = nn.LayerNorm(width)

    def forward(
        self,
        tokens_NLC: Tensor,
        image_embeddings_NLD: Tensor,
        reference: ReferenceTokens | None,
        grid: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        """Return the tokens, and the normed self-attention input, which a denoiser block reads."""
        normed = self.norm1(tokens_NLC)
        tokens_NLC = self.attn1(normed, reference, grid) + tokens_NLC
        # With a single key the softmax is 1 for every query, so one query serves for all.
        queries = tokens_NLC[:, :1] if image_embeddings_NLD.shape[1] == 1 else tokens_NLC
        tokens_NLC = self.attn2(self.norm2(queries), image_embeddings_NLD) + tokens_NLC
        return self.ff(self.norm3(tokens_NLC)) + tokens_NLC, normed


class SpatialTransformer(nn.Module):
    """GroupNorm, 1×1 convolution, one `SpatialBlock`, 1×1 convolution; added to the input."""

    def __init__(
        self,
        width: int,
        heads: int,
        groups: int,
        image_embedding_width: int,
        use_2d_rope: bool = False,
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList(
            [SpatialBlock(width, heads, image_embedding_width, use_2d_rope)]
        )
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(
        self,
        x_NCHW: Tensor,
        image_embeddings_NLD: Tensor,
        reference: ReferenceTokens | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the feature map, and the tokens (N, H·W, C) that a denoiser block reads."""
        tokens_NLC = self.proj_in(self.norm(x_NCHW)).flatten(2).transpose(1, 2)
        grid = (x_NCHW.shape[2], x_NCHW.shape[3])
        for block in self.transformer_blocks:
            tokens_NLC, written = block(tokens_NLC, image_embeddings_NLD, reference, grid)
        x_out = tokens_NLC.transpose(1, 2).unflatten(2, x_NCHW.shape[2:])
        return self.proj_out(x_out) + x_NCHW, written

    def write_only(self, x_NCHW: Tensor) -> Tensor:
        """Return the tokens that a denoiser block reads, and compute nothing beyond them."""
        norm, proj_in, norm1 = self.writing_parts()
        return norm1(proj_in(norm(x_NCHW)).flatten(2).transpose(1, 2))

    def writing_parts(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """Return the layers that `write_only` runs, in order."""
        return self.norm, self.proj_in, self.transformer_blocks[0].get_submodule("norm1")
