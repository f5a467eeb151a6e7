"""Self-attention that also reads reference tokens, absent from some samples."""

from dataclasses import dataclass

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor

from xnemo.model.reference_features import ReferenceFeatures
from xnemo.model.rotary_attention import Places, own_places


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

    def per_frame(self, dtype: torch.dtype) -> Tensor:
        """Return the tokens once for each frame, (N, M, C)."""
        return self.tokens_BMC.to(dtype)[:, None].expand(-1, self.frames, -1, -1).flatten(0, 1)

    def of_rows(self, index: list[int]) -> "ReferenceTokens":
        """Return those of some samples, which are there."""
        cells = None if self.cells_BM is None else self.cells_BM[index]
        return ReferenceTokens(self.tokens_BMC[index], self.frames, None, cells)


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


def attend(
    attention: Attention,
    tokens_NLC: Tensor,
    read: ReferenceTokens | None,
    grid: tuple[int, int] | None = None,
) -> Tensor:
    """Attend from each frame's tokens to these and to its sample's reference tokens.

    Args:
        attention: The self-attention layer.
        tokens_NLC: Normed tokens; N is samples × frames, the frames of a sample adjacent.
        read: The reference tokens; None attends to the own tokens alone.
        grid: Height and width of the feature map, where the attention knows places; else None.
    """
    if read is None:
        places = _places(attention, tokens_NLC, None, grid)
        return attention(tokens_NLC, tokens_NLC if places else None, **places)
    if read.presence is not None and read.presence.rows is not None:
        return _attend_by_rows(attention, tokens_NLC, read, read.presence.rows, grid)
    keys = torch.cat([tokens_NLC, read.per_frame(tokens_NLC.dtype)], dim=1)
    places = _places(attention, tokens_NLC, read, grid)
    if read.presence is None or read.presence.mask_B is None:
        return attention(tokens_NLC, keys, **places)
    mask_B1 = read.presence.mask_B.to(keys.device)[:, None]
    own_B1 = torch.ones_like(mask_B1)
    lengths = tokens_NLC.shape[1], read.tokens_BMC.shape[1]
    mask_BS = torch.cat([own_B1.expand(-1, lengths[0]), mask_B1.expand(-1, lengths[1])], dim=1)
    mask_N1S = mask_BS.repeat_interleave(read.frames, dim=0)[:, None]
    return attention(tokens_NLC, keys, attention_mask=mask_N1S, **places)


def _places(
    attention: Attention,
    tokens_NLC: Tensor,
    read: ReferenceTokens | None,
    grid: tuple[int, int] | None,
) -> dict[str, Places]:
    """Return what a rotary attention is to be called with beside tokens."""
    if grid is None:
        return {}
    own = own_places(grid, tokens_NLC.shape[2] // attention.heads, tokens_NLC)
    if read is None:
        return {"places": Places(own, own)}
    if read.cells_BM is None:
        return {"places": Places(own, torch.cat([own, own], dim=1))}
    there = own[:, read.cells_BM.to(own.device).repeat_interleave(read.frames, dim=0)]
    both = torch.cat([own[:, None].expand(-1, there.shape[1], -1, -1), there], dim=2)
    return {"places": Places(own, both[:, :, None])}


def _attend_by_rows(
    attention: Attention,
    tokens_NLC: Tensor,
    read: ReferenceTokens,
    rows: tuple[bool, ...],
    grid: tuple[int, int] | None,
) -> Tensor:
    """Attend in two batches: the samples that have a reference, and those that have none."""
    tokens_BFLC = tokens_NLC.unflatten(0, (len(rows), read.frames))
    result = torch.empty_like(tokens_BFLC)
    for present in (False, True):
        index = [row for row, there in enumerate(rows) if there is present]
        chosen = tokens_BFLC[index].flatten(0, 1)
        out = attend(attention, chosen, read.of_rows(index) if present else None, grid)
        result[index] = out.unflatten(0, (len(index), read.frames))
    return result.flatten(0, 1)
