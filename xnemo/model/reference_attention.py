"""Self-attention that also reads reference tokens, absent from some samples."""

from dataclasses import dataclass

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor

from xnemo.model.reference_features import ReferenceFeatures


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


def attend_with_reference(
    attention: Attention,
    tokens_NLC: Tensor,
    reference_BMC: Tensor,
    presence: Presence | None,
    frames: int,
) -> Tensor:
    """Attend from each frame's tokens to these and to its sample's reference tokens.

    Args:
        attention: The self-attention layer.
        tokens_NLC: Normed tokens; N is samples × `frames`, the frames of a sample adjacent.
        reference_BMC: Reference tokens, one set per sample.
        presence: Which samples have a reference; None means all.
        frames: Frames per sample.
    """
    if presence is not None and presence.rows is not None:
        return _split(attention, tokens_NLC, reference_BMC, presence.rows, frames)
    keys = torch.cat([tokens_NLC, _per_frame(reference_BMC, frames, tokens_NLC.dtype)], dim=1)
    if presence is None or presence.mask_B is None:
        return attention(tokens_NLC, keys)
    own, read = tokens_NLC.shape[1], reference_BMC.shape[1]
    mask_B1 = presence.mask_B.to(keys.device)[:, None]
    mask_BS = torch.cat([torch.ones_like(mask_B1).expand(-1, own), mask_B1.expand(-1, read)], dim=1)
    return attention(
        tokens_NLC, keys, attention_mask=mask_BS.repeat_interleave(frames, dim=0)[:, None]
    )


def _split(
    attention: Attention,
    tokens_NLC: Tensor,
    reference_BMC: Tensor,
    rows: tuple[bool, ...],
    frames: int,
) -> Tensor:
    tokens_BFLC = tokens_NLC.unflatten(0, (len(rows), frames))
    result = torch.empty_like(tokens_BFLC)
    for present in (False, True):
        index = [row for row, there in enumerate(rows) if there is present]
        chosen = tokens_BFLC[index].flatten(0, 1)
        if present:
            out = attend_with_reference(attention, chosen, reference_BMC[index], None, frames)
        else:
            out = attention(chosen)
        result[index] = out.unflatten(0, (len(index), frames))
    return result.flatten(0, 1)


def _per_frame(reference_BMC: Tensor, frames: int, dtype: torch.dtype) -> Tensor:
    return reference_BMC.to(dtype)[:, None].expand(-1, frames, -1, -1).flatten(0, 1)
