"""Reference features of a portrait, passed to the denoiser as a value."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class ReferenceFeatures:
    """Tokens of the reference for every transformer block of the denoiser.

    No network stores them, so they can be reused for any number of denoising steps, accumulated
    over micro-batches and recomputed under gradient checkpointing.
    """

    # (B, tokens, channels) by name of the transformer block that reads them, such as
    # "mid_block.attentions.0.transformer_blocks.0".
    by_block: Mapping[str, Tensor]
    # Which samples have a reference, (B,) bool; None means all.
    present_B: Tensor | None = None  # noqa: N815
    # (B, tokens) by the same names: index of each token's cell in the feature map. Empty where the
    # tokens are all cells in order.
    cells_by_block: Mapping[str, Tensor] = field(default_factory=dict)

    def with_presence(self, present_B: Tensor) -> "ReferenceFeatures":
        """Return the features with the reference absent from samples where `present_B` is False.

        A sample without reference attends to its own tokens alone: for the unconditional branch of
        guidance, and for condition dropout. Pass a CPU tensor at inference to avoid a
        synchronisation per step.
        """
        batch = next(iter(self.by_block.values())).shape[0]
        if present_B.dtype != torch.bool or present_B.shape != (batch,):
            raise ValueError(
                f"presence must be ({batch},) of bool, not {tuple(present_B.shape)} of"
                f" {present_B.dtype}"
            )
        return replace(self, present_B=present_B)

    def mask_tokens(self, ratio: float, seeds: Sequence[int]) -> "ReferenceFeatures":
        """Drop random tokens, drawn separately per block and sample (reference feature masking).

        Tokens are removed, not zeroed: int(tokens · (1 - ratio)) of each block remain. The draw
        depends only on the sample's seed and the block's name, not on batch or device.

        Args:
            ratio: Fraction to drop, in [0, 1); 0.3 in the paper's training, 0 at inference.
            seeds: One integer per sample.
        """
        if not 0 <= ratio < 1:
            raise ValueError(f"mask ratio {ratio} is not in [0, 1)")
        if ratio == 0:
            return self
        if self.cells_by_block:
            raise ValueError("tokens are masked already")
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
        """Return the features of the samples `index_B`, which may repeat or reorder them."""
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
