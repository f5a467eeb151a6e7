"""The workers of a run, as one of them sees the others."""

from dataclasses import dataclass

import torch
import torch.distributed as dist

from preprocessing.errors import UserError


@dataclass(frozen=True)
class World:
    """This worker's number, how many there are, and the little talk they need.

    Every method that says "all workers" is a collective: each worker must call it.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this worker writes logs and bundles."""
        return self.rank == 0

    def sum(self, values: list[float]) -> list[float]:
        """Add values over all workers."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def any(self, flags: list[bool]) -> list[bool]:
        """Say of each flag whether it is set on any of all workers."""
        return [value > 0 for value in self.sum([float(flag) for flag in flags])]

    def barrier(self) -> None:
        """Wait until all workers are here."""
        if self.size > 1:
            dist.barrier()

    def gather_flat(self, shard: torch.Tensor) -> torch.Tensor | None:
        """Join equally long 1-D shards by rank on the main worker; elsewhere return None."""
        if self.size == 1:
            return shard
        parts = [torch.empty_like(shard) for _ in range(self.size)] if self.is_main else None
        dist.gather(shard, parts, dst=0)
        return None if parts is None else torch.cat(parts)


def current_world(device: str = "auto") -> World:
    """Return the world that torch.distributed was initialised with, or a world of one.

    Raises:
        UserError: a GPU is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("engine.device is cuda and there is no GPU", "set engine.device=auto")
    use_cuda = device != "cpu" and torch.cuda.is_available()
    place = torch.device("cuda", torch.cuda.current_device()) if use_cuda else torch.device("cpu")
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size(), place)
    return World(0, 1, place)
