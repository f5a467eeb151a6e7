"""Self-attention that also reads reference tokens, absent from some samples."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xnemo.model.layers.rotary_embedding import place_turns, turned
from xnemo.model.unet.reference_features import ReferenceFeatures


@dataclass(frozen=True)
class Presence:
    """Which samples of a batch have a reference, in the form that suits the pass.

    Training masks keys: every parameter stays in the graph whatever was dropped, as distributed
    engines need. Inference splits the batch: no sample pays for keys it must not see, and the fast
    attention kernels, which take no mask, stay usable. Both give the same numbers.
    """

    # (B,) bool; set in training.
    mask_B: Tensor | None = None  # noqa: N815
    # The same, known to Python; set in inference.
    rows: tuple[bool, ...] | None = None


@dataclass(frozen=True)
class ReferenceTokens:
    """What one transformer block reads of the reference beside its own tokens."""

    # One set per sample.
    tokens_BMC: Tensor  # noqa: N815
    # Frames per sample; all of them read the same set.
    frames: int
    # Which samples have a reference; None means all.
    presence: Presence | None = None
    # Which cells of the feature map the tokens are; None means all of them, in order.
    cells_BM: Tensor | None = None  # noqa: N815


def split_presence(reference: ReferenceFeatures | None) -> tuple[bool, Presence | None]:
    """Return whether anything is to be read at all, and who reads it (None: everyone)."""
    if reference is None:
        return False, None
    if reference.present_B is None:
        return True, None
    if torch.is_grad_enabled():
        return True, Presence(mask_B=reference.present_B)
    rows = tuple(reference.present_B.tolist())
    return any(rows), None if all(rows) else Presence(rows=rows)


class ReferenceAttention(nn.Module):
    """Attend from each frame's tokens to these and to its sample's reference tokens.

    The release projects the reference to keys and values anew for every frame that reads it; here
    once a pass. State-dict names are those of diffusers' `Attention`.

    Args:
        width: Channels of the tokens.
        heads: Attention heads; `width` is a multiple.
        places: Whether queries and keys are turned by where they lie (`rotary_places`).
    """

    def __init__(self, width: int, heads: int, places: bool = False) -> None:
        super().__init__()
        self.heads, self.places = heads, places
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(
        self, tokens_NLC: Tensor, read: ReferenceTokens | None, grid: tuple[int, int]
    ) -> Tensor:
        """Return (N, L, C).

        Args:
            tokens_NLC: Normed tokens; N is samples × frames, the frames of a sample adjacent.
            read: The reference tokens; None attends to the own tokens alone.
            grid: Height and width of the feature map.
        """
        query = self._split_heads(self.to_q(tokens_NLC))
        key = self._split_heads(self.to_k(tokens_NLC))
        value = self._split_heads(self.to_v(tokens_NLC))
        if self.places:
            turns = place_turns(grid, query.shape[3], tokens_NLC)
            query, key = turned(query, turns), turned(key, turns)
        if read is None:
            out_NHLD = F.scaled_dot_product_attention(query, key, value)
        elif read.presence is None or read.presence.rows is None:
            keys, values = self._with_reference(key, value, read, grid)
            mask = _key_mask(read, key.shape[2])
            out_NHLD = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        else:
            out_NHLD = self._by_rows(query, key, value, read, read.presence.rows, grid)
        return self.to_out[0](out_NHLD.transpose(1, 2).flatten(2))

    def _by_rows(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        read: ReferenceTokens,
        rows: tuple[bool, ...],
        grid: tuple[int, int],
    ) -> Tensor:
        """Attend in two batches: the samples that have a reference, and those that have none."""
        result = torch.empty_like(query)
        for present in (False, True):
            index = [row for row, there in enumerate(rows) if there is present]
            frames = [row * read.frames + frame for row in index for frame in range(read.frames)]
            keys, values = key[frames], value[frames]
            if present:
                cells = None if read.cells_BM is None else read.cells_BM[index]
                chosen = ReferenceTokens(read.tokens_BMC[index], read.frames, None, cells)
                keys, values = self._with_reference(keys, values, chosen, grid)
            result[frames] = F.scaled_dot_product_attention(query[frames], keys, values)
        return result

    def _with_reference(
        self, key_NHLD: Tensor, value_NHLD: Tensor, read: ReferenceTokens, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return keys and values of each frame's own tokens and of its sample's reference."""
        tokens_BMC = read.tokens_BMC.to(self.to_k.weight.dtype)
        key_BHMD = self._split_heads(self.to_k(tokens_BMC))
        if self.places:
            turns = place_turns(grid, key_BHMD.shape[3], tokens_BMC)
            if read.cells_BM is not None:
                # (2, B, 1, M, D/2): each sample kept other cells.
                turns = turns[:, read.cells_BM.to(turns.device)][:, :, None]
            key_BHMD = turned(key_BHMD, turns)
        value_BHMD = self._split_heads(self.to_v(tokens_BMC))
        return (
            _joined(key_NHLD, key_BHMD, read.frames),
            _joined(value_NHLD, value_BHMD, read.frames),
        )

    def _split_heads(self, tokens_NLC: Tensor) -> Tensor:
        return tokens_NLC.unflatten(2, (self.heads, -1)).transpose(1, 2)


def _joined(own_NHLD: Tensor, reference_BHMD: Tensor, frames: int) -> Tensor:
    own_BFHLD = own_NHLD.unflatten(0, (-1, frames))
    shared = reference_BHMD[:, None].expand(-1, frames, -1, -1, -1)
    return torch.cat([own_BFHLD, shared], dim=3).flatten(0, 1)


def _key_mask(read: ReferenceTokens, own: int) -> Tensor | None:
    """Return which keys each frame may see, (N, 1, 1, own + reference); None where all."""
    if read.presence is None or read.presence.mask_B is None:
        return None
    mask_B1 = read.presence.mask_B.to(read.tokens_BMC.device)[:, None]
    shared_BM = mask_B1.expand(-1, read.tokens_BMC.shape[1])
    mask_BS = torch.cat([torch.ones_like(mask_B1).expand(-1, own), shared_BM], dim=1)
    return mask_BS.repeat_interleave(read.frames, dim=0)[:, None, None]
