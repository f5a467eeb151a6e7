"""What the reference network says of a portrait, handed to the denoiser as a value."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class ReferenceFeatures:
    """Tokens of the reference for every transformer block of the denoiser.

    A value, not a memory: nothing in a network keeps it, so it can be reused for any number of
    denoising steps, accumulated over micro-batches and recomputed under gradient checkpointing.
    """

    # By name of the transformer block that reads them, such as
    # "mid_block.attentions.0.transformer_blocks.0": (B, tokens, channels).
    by_block: Mapping[str, Tensor]
    # Which samples have a reference at all, (B,) bool; None means all.
    present_B: Tensor | None = None  # noqa: N815
    # By the same names, (B, tokens): which cells of the feature map the tokens are. Empty where
    # they are all of them, in order.
    cells_by_block: Mapping[str, Tensor] = field(default_factory=dict)

    def with_presence(self, present_B: Tensor) -> "ReferenceFeatures":
        """Return the features with the reference absent from samples where `present_B` is False.

        An absent sample attends to its own tokens alone, as if there were no reference network:
        the unconditional branch of guidance, and condition dropout. Pass a CPU tensor in inference
        to spare a synchronisation per step.
        """
        batch = next(iter(self.by_block.values())).shape[0]
        if present_B.dtype != torch.bool or present_B.shape != (batch,):
            raise ValueError(
                f"presence must be ({batch},) of bool, not {tuple(present_B.shape)} of"
                f" {present_B.dtype}"
            )
        return replace(self, present_B=present_B)

    def mask_tokens(self, ratio: float, seeds: Sequence[int]) -> "ReferenceFeatures":
        """Drop a random part of the tokens, anew for each block and sample.

        Tokens are removed, not zeroed: int(tokens · (1 - ratio)) of each block remain. A sample's
        draw depends on its seed and the block's name alone, so neither the batch it is in nor the
        device changes it.

        Args:
            ratio: Part to drop, in [0, 1); 0.3 in the paper's training, 0 at inference.
            seeds: One integer per sample.
        """
        if not 0 <= ratio < 1:
            raise ValueError(f"mask ratio {ratio} is not in [0, 1)")
        if ratio == 0:
            return self
        if self.cells_by_block:
            raise ValueError("tokens were dropped already")
        cells = {name: _kept(tokens, ratio, seeds, name) for name, tokens in self.by_block.items()}
        return replace(
            self,
            by_block={
                name: tokens.gather(1, cells[name][:, :, None].expand(-1, -1, tokens.shape[2]))
                for name, tokens in self.by_block.items()
            },
            cells_by_block=cells,
        )

    def select(self, index_B: Tensor | Sequence[int]) -> "ReferenceFeatures":
        """Return the features of some samples, repeated or reordered as the index says."""
        index = torch.as_tensor(index_B)
        return ReferenceFeatures(
            {name: t.index_select(0, index.to(t.device)) for name, t in self.by_block.items()},
            None if self.present_B is None else self.present_B[index.to(self.present_B.device)],
            {n: c.index_select(0, index.to(c.device)) for n, c in self.cells_by_block.items()},
        )

    def to(self, *args: Any, **kwargs: Any) -> "ReferenceFeatures":
        """Move or cast the tokens, with the arguments of `Tensor.to`."""
        return replace(
            self, by_block={name: t.to(*args, **kwargs) for name, t in self.by_block.items()}
        )


def _kept(tokens_BLC: Tensor, ratio: float, seeds: Sequence[int], name: str) -> Tensor:
    batch, length, _ = tokens_BLC.shape
    if len(seeds) != batch:
        raise ValueError(f"{len(seeds)} seeds for {batch} samples")
    kept = int(length * (1 - ratio))
    index_BK = torch.stack([_permutation(length, seed, name)[:kept] for seed in seeds])
    return index_BK.to(tokens_BLC.device)


def _permutation(length: int, seed: int, name: str) -> Tensor:
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    generator = torch.Generator(device="cpu").manual_seed(int.from_bytes(digest) >> 1)
    return torch.randperm(length, generator=generator, device="cpu")
