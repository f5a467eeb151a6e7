"""Who reads which sample: the global batch split over ranks and micro-batches."""

import math
from dataclasses import dataclass

from preprocessing.errors import UserError


@dataclass(frozen=True)
class MicroBatch:
    """The sample indices of one forward pass on one rank; weight 0 fills an empty slot."""

    indices: tuple[int, ...]
    weight: float


@dataclass(frozen=True)
class BatchPlan:
    """Split each step's global batch, samples [seen, seen + global_batch), over the ranks.

    The global batch is fixed, so a run keeps its meaning on any number of workers: accumulation
    follows from it. A micro-batch goes to slot (pass, rank) in order. Where the micro-batches do
    not divide by the ranks, the last pass is filled up with repeated samples of weight 0: every
    rank runs every module equally often, and no sample counts twice.

    Attributes:
        global_batch: samples per optimiser step over all ranks.
        micro_batch: samples per forward pass on one rank, divides `global_batch`.
    """

    global_batch: int
    micro_batch: int
    rank: int = 0
    world: int = 1

    @property
    def accumulation(self) -> int:
        """Forward passes per step on each rank."""
        return math.ceil(self.global_batch / (self.micro_batch * self.world))

    @property
    def loss_scale(self) -> float:
        """Factor that turns a mean over all slots into a mean over the filled ones."""
        slots = self.accumulation * self.world
        return slots * self.micro_batch / self.global_batch

    def step(self, samples_seen: int) -> list[MicroBatch]:
        """Return this rank's micro-batches of the step that starts at `samples_seen`."""
        result = []
        for turn in range(self.accumulation):
            slot = turn * self.world + self.rank
            first = slot * self.micro_batch
            filled = first < self.global_batch
            start = samples_seen + (first if filled else 0)
            indices = tuple(range(start, start + self.micro_batch))
            result.append(MicroBatch(indices, 1.0 if filled else 0.0))
        return result


def plan_batches(global_batch: int, largest_micro_batch: int, rank: int, world: int) -> BatchPlan:
    """Choose the micro-batch: the largest divisor of the global batch that a rank's share allows.

    Raises:
        UserError: there are more ranks than samples in a global batch.
    """
    if world > global_batch:
        raise UserError(
            f"{world} workers for a global batch of {global_batch} samples",
            f"use at most {global_batch} workers or raise global_batch",
        )
    share = math.ceil(global_batch / world)
    limit = min(largest_micro_batch, share)
    micro = max(size for size in range(1, limit + 1) if global_batch % size == 0)
    return BatchPlan(global_batch, micro, rank, world)
