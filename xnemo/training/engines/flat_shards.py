"""Cut tensors into equally long flat pieces, one per worker, and put them together again."""

from collections.abc import Mapping

import torch
from torch import Tensor

from xnemo.training.engines.world import World


def flat_shard(tensor: Tensor, rank: int, size: int) -> Tensor:
    """Return worker `rank`'s ceil(numel / size) values of a tensor, zero-padded at the end.

    A view where no padding is needed.
    """
    flat = tensor.reshape(-1)
    length = -(-flat.numel() // size)
    piece = flat[rank * length : (rank + 1) * length]
    if piece.numel() == length:
        return piece
    return torch.nn.functional.pad(piece, (0, length - piece.numel()))


def gather_shards(
    shards: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], world: World
) -> dict[str, Tensor]:
    """Return the whole tensors on the CPU of the main worker, elsewhere nothing; all workers."""
    whole = {}
    for name, shard in shards.items():
        flat = world.gather_flat(shard.contiguous())
        if flat is not None:
            shape = shapes[name]
            whole[name] = flat[: shape.numel()].view(shape).cpu().clone()
    return whole
