"""Split of the global batch over ranks and micro-batches."""

import math
from dataclasses import dataclass

from preprocessing.errors import UserError


@dataclass(frozen=True)
class MicroBatch:
    """The sample indices of one forward pass on one rank; weight 0 marks padding."""

    indices: tuple[int, ...]
    weight: float


@dataclass(frozen=True)
class BatchPlan:
    """Split each step's global batch, samples [seen, seen + global_batch), over the ranks.

    The global batch does not depend on the number of ranks; the number of accumulated passes does.
    Micro-batches are assigned to (pass, rank) in order. If their number does not divide by the
    ranks, the last pass is padded with repeated samples of weight 0, so that all ranks run the same
    number of passes and no sample counts twice.

    Attributes:
        global_batch: samples per optimiser step over all ranks.
        micro_batch: samples per forward pass on one rank; divides `global_batch`.
        rank: this rank.
        world_size: number of ranks.
    """

    global_batch: int
    micro_batch: int
    rank: int = 0
    world_size: int = 1

    @property
    def accumulation(self) -> int:
        """Forward passes per step on each rank."""
        return math.ceil(self.global_batch / (self.micro_batch * self.world_size))

    @property
    def loss_scale(self) -> float:
        """Factor from the mean over all passes and ranks to the mean over those without padding."""
        slots = self.accumulation * self.world_size
        return slots * self.micro_batch / self.global_batch

    def step(self, samples_seen: int) -> list[MicroBatch]:
        """Return this rank's micro-batches of the step that starts at `samples_seen`."""
        result = []
        for number in range(self.accumulation):
            slot = number * self.world_size + self.rank
            first = slot * self.micro_batch
            filled = first < self.global_batch
            start = samples_seen + (first if filled else 0)
            indices = tuple(range(start, start + self.micro_batch))
            result.append(MicroBatch(indices, 1.0 if filled else 0.0))
        return result


def plan_batches(
    global_batch: int, largest_micro_batch: int, rank: int, world_size: int
) -> BatchPlan:
    """Choose the largest micro-batch that divides the global batch and fits a rank's share.

    Raises:
        UserError: there are more ranks than samples in a global batch.
    """
    if world_size > global_batch:
        raise UserError(
            f"{world_size} workers for a global batch of {global_batch} samples",
            f"use at most {global_batch} workers or raise global_batch",
        )
    share = math.ceil(global_batch / world_size)
    limit = min(largest_micro_batch, share)
    micro = max(size for size in range(1, limit + 1) if global_batch % size == 0)
    return BatchPlan(global_batch, micro, rank, world_size)
