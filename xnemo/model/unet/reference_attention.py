"""Self-attention that also reads reference tokens, which some samples may lack."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xnemo.model.layers.rotary_embedding import apply_rope, rope_angles
from xnemo.model.unet.reference_features import ReferenceFeatures


@dataclass(frozen=True)
class Presence:
    """Which samples of a batch have a reference, in the form that suits the pass.

    Training masks keys: every parameter stays in the graph, as distributed engines require.
    Inference splits the batch: no sample computes keys that it does not use, and fast attention
    kernels that take no mask remain usable. Both give the same numbers.
    """

    # (B,) bool; set in training.
    mask_B: Tensor | None = None  # noqa: N815
    # The same as Python values; set at inference.
    rows: tuple[bool, ...] | None = None


@dataclass(frozen=True)
class ReferenceTokens:
    """The reference tokens of one transformer block."""

    # One set per sample.
    tokens_BMC: Tensor  # noqa: N815
    # Frames per sample; all of them read the same set.
    frames: int
    # Which samples have a reference; None means all.
    presence: Presence | None = None
    # Index of each token's cell in the feature map; None means all cells in order.
    cells_BM: Tensor | None = None  # noqa: N815


def split_presence(reference: ReferenceFeatures | None) -> tuple[bool, Presence | None]:
    """Return whether any sample has a reference, and which ones do (None: all)."""
    if reference is None:
        return False, None
    if reference.present_B is None:
        return True, None
    if torch.is_grad_enabled():
        return True, Presence(mask_B=reference.present_B)
    rows = tuple(reference.present_B.tolist())
    return any(rows), None if all(rows) else Presence(rows=rows)


class ReferenceAttention(nn.Module):
    """Attention from each frame's tokens to themselves and to their sample's reference tokens.

    Keys and values of the reference are projected once per pass; the release projects them for
    every frame. State-dict names are those of diffusers' `Attention`.

    Args:
        width: Channels of the tokens.
        heads: Attention heads; `width` is a multiple.
        use_2d_rope: Whether queries and keys have a 2-D RoPE.
    """

    def __init__(self, width: int, heads: int, use_2d_rope: bool = False) -> None:
        super().__init__()
        self.heads, self.use_2d_rope = heads, use_2d_rope
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(
        self, tokens_NLC: Tensor, reference: ReferenceTokens | None, grid: tuple[int, int]
    ) -> Tensor:
        """Return (N, L, C).

        Args:
            tokens_NLC: Normed tokens; N is samples × frames, the frames of a sample adjacent.
            reference: Reference tokens; None for plain self-attention.
            grid: Height and width of the feature map.
        """
        query = self._split_heads(self.to_q(tokens_NLC))
        key = self._split_heads(self.to_k(tokens_NLC))
        value = self._split_heads(self.to_v(tokens_NLC))
        if self.use_2d_rope:
            angles = rope_angles(grid, query.shape[3], tokens_NLC)
            query, key = apply_rope(query, angles), apply_rope(key, angles)
        if reference is None:
            out_NHLD = F.scaled_dot_product_attention(query, key, value)
        elif reference.presence is None or reference.presence.rows is None:
            keys, values = self._with_reference(key, value, reference, grid)
            mask = _key_mask(reference, key.shape[2])
            out_NHLD = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        else:
            out_NHLD = self._by_rows(query, key, value, reference, reference.presence.rows, grid)
        return self.to_out[0](out_NHLD.transpose(1, 2).flatten(2))

    def _by_rows(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        reference: ReferenceTokens,
        rows: tuple[bool, ...],
        grid: tuple[int, int],
    ) -> Tensor:
        """Attend in two batches: samples with a reference, and samples without."""
        result = torch.empty_like(query)
        count = reference.frames
        for present in (False, True):
            index = [row for row, there in enumerate(rows) if there is present]
            frames = [row * count + frame for row in index for frame in range(count)]
            keys, values = key[frames], value[frames]
            if present:
                cells = None if reference.cells_BM is None else reference.cells_BM[index]
                own = replace(reference, tokens_BMC=reference.tokens_BMC[index], cells_BM=cells)
                keys, values = self._with_reference(keys, values, own, grid)
            result[frames] = F.scaled_dot_product_attention(query[frames], keys, values)
        return result

    def _with_reference(
        self,
        key_NHLD: Tensor,
        value_NHLD: Tensor,
        reference: ReferenceTokens,
        grid: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        """Return keys and values of each frame's own tokens and of its sample's reference."""
        tokens_BMC = reference.tokens_BMC.to(self.to_k.weight.dtype)
        key_BHMD = self._split_heads(self.to_k(tokens_BMC))
        if self.use_2d_rope:
            angles = rope_angles(grid, key_BHMD.shape[3], tokens_BMC)
            if reference.cells_BM is not None:
                # (2, B, 1, M, D/2): each sample kept other cells.
                angles = angles[:, reference.cells_BM.to(angles.device)][:, :, None]
            key_BHMD = apply_rope(key_BHMD, angles)
        value_BHMD = self._split_heads(self.to_v(tokens_BMC))
        return (
            _join(key_NHLD, key_BHMD, reference.frames),
            _join(value_NHLD, value_BHMD, reference.frames),
        )

    def _split_heads(self, tokens_NLC: Tensor) -> Tensor:
        return tokens_NLC.unflatten(2, (self.heads, -1)).transpose(1, 2)


def _join(own_NHLD: Tensor, reference_BHMD: Tensor, frames: int) -> Tensor:
    own_BFHLD = own_NHLD.unflatten(0, (-1, frames))
    shared = reference_BHMD[:, None].expand(-1, frames, -1, -1, -1)
    return torch.cat([own_BFHLD, shared], dim=3).flatten(0, 1)


def _key_mask(reference: ReferenceTokens, own: int) -> Tensor | None:
    """Return which keys each frame may attend to, (N, 1, 1, own + reference); None for all."""
    if reference.presence is None or reference.presence.mask_B is None:
        return None
    mask_B1 = reference.presence.mask_B.to(reference.tokens_BMC.device)[:, None]
    shared_BM = mask_B1.expand(-1, reference.tokens_BMC.shape[1])
    mask_BS = torch.cat([torch.ones_like(mask_B1).expand(-1, own), shared_BM], dim=1)
    return mask_BS.repeat_interleave(reference.frames, dim=0)[:, None, None]
