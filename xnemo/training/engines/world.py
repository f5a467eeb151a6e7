"""The workers of a run, their collective operations, and flat shards of tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from preprocessing.errors import UserError


@dataclass(frozen=True)
class World:
    """Rank and device of this worker, and the collective operations that training uses.

    All methods must be called by all workers.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this worker writes logs and bundles."""
        return self.rank == 0

    def sum(self, values: list[float]) -> list[float]:
        """Return the elementwise sum over all workers."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any worker."""
        return self.sum([float(flag)])[0] > 0

    def barrier(self) -> None:
        """Wait for all workers."""
        if self.size > 1:
            dist.barrier()

    def gather_strings(self, strings: Sequence[str]) -> list[str]:
        """Return the strings of all workers, in order of rank."""
        if self.size == 1:
            return list(strings)
        gathered: list[list[str]] = [[] for _ in range(self.size)]
        dist.all_gather_object(gathered, list(strings))
        return [string for some in gathered for string in some]

    def gather_shards(
        self, shards: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]
    ) -> dict[str, Tensor]:
        """Join `flat_shard`s to whole tensors on the main worker's CPU; nothing elsewhere."""
        whole = {}
        for name, shard in shards.items():
            flat = self._gather_flat(shard.contiguous())
            if flat is not None:
                shape = shapes[name]
                whole[name] = flat[: shape.numel()].view(shape).cpu().clone()
        return whole

    def _gather_flat(self, shard: Tensor) -> Tensor | None:
        """Join equally long 1-D shards by rank on the main worker; elsewhere return None."""
        if self.size == 1:
            return shard
        parts = [torch.empty_like(shard) for _ in range(self.size)] if self.is_main else None
        dist.gather(shard, parts, dst=0)
        return None if parts is None else torch.cat(parts)


def current_world(device: str = "auto") -> World:
    """Return the world of torch.distributed, or a world of one process if not initialised.

    Raises:
        UserError: `device` is "cuda" and there is no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("engine.device is cuda and there is no GPU", "set engine.device=auto")
    use_cuda = device != "cpu" and torch.cuda.is_available()
    chosen = torch.device("cuda", torch.cuda.current_device()) if use_cuda else torch.device("cpu")
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size(), chosen)
    return World(0, 1, chosen)


def flat_shard(tensor: Tensor, rank: int, size: int) -> Tensor:
    """Return worker `rank`'s ceil(numel / size) values of a tensor, zero-padded at the end.

    The result is a view where no padding is needed.
    """
    flat = tensor.reshape(-1)
    length = -(-flat.numel() // size)
    shard = flat[rank * length : (rank + 1) * length]
    if shard.numel() == length:
        return shard
    return torch.nn.functional.pad(shard, (0, length - shard.numel()))
