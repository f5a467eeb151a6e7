"""The transformer block that motion modules, temporal modules and patch attention share."""

from typing import Any

from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from xnemo.model.layers.feed_forward import GatedFeedForward
from xnemo.model.layers.position_embeddings import frame_table


class ZeroLinear(nn.Linear):
    """Zero-initialised output layer: an untrained residual branch adds nothing."""

    def reset_parameters(self) -> None:
        """Set weight and bias to zero."""
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class FramePosition(nn.Module):
    """Adds a fixed position table to tokens (N, L, C) with L up to `length`.

    The table is a persistent buffer because official checkpoints contain it.
    """

    pe: Tensor

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.register_buffer("pe", frame_table(length, width)[None])

    def forward(self, tokens_NLC: Tensor) -> Tensor:
        """Return the tokens with their positions added."""
        return tokens_NLC + self.pe[:, : tokens_NLC.shape[1]].to(tokens_NLC.dtype)


class PositionedAttention(Attention):
    """Self-attention that adds frame positions to its input first."""

    def __init__(self, width: int, heads: int, length: int) -> None:
        super().__init__(width, heads=heads, dim_head=width // heads)
        self.pos_encoder = FramePosition(width, length)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Attend among (N, L, C) tokens, positions included."""
        return super().forward(self.pos_encoder(hidden_states), *args, **kwargs)


class TransformerBlock(nn.Module):
    """Pre-norm residual attention layers in a row, then one GEGLU feed-forward.

    Args:
        width: Channels of the tokens.
        heads: Attention heads; `width` is a multiple.
        attentions: Number of attention layers, each with its own weights and norm.
        context_width: Width of the context tokens; self-attention where None.
        positions: Length of the frame-position table added before each attention; none where None.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        attentions: int,
        context_width: int | None = None,
        positions: int | None = None,
    ) -> None:
        super().__init__()
        self.attention_blocks = nn.ModuleList(
            Attention(width, context_width, heads=heads, dim_head=width // heads)
            if positions is None
            else PositionedAttention(width, heads, positions)
            for _ in range(attentions)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(attentions))
        self.ff = GatedFeedForward(width)
        self.ff_norm = nn.LayerNorm(width)

    def forward(self, tokens_NLC: Tensor, context_NMD: Tensor | None = None) -> Tensor:
        """Return tokens of the same shape; cross-attention reads `context_NMD`."""
        for attention, norm in zip(self.attention_blocks, self.norms, strict=True):
            tokens_NLC = attention(norm(tokens_NLC), context_NMD) + tokens_NLC
        return self.ff(self.ff_norm(tokens_NLC)) + tokens_NLC
