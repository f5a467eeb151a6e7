"""Interface of the engines, which DistributedDataParallel and ZeRO both implement."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class StepOutcome:
    """Result of an optimiser step, the same on all workers."""

    # Global gradient norm before clipping; infinite or NaN if the step was skipped.
    grad_norm: float
    # Whether the weights changed.
    applied: bool


@dataclass(frozen=True)
class OptimizerMoments:
    """AdamW's state as whole tensors by parameter name, independent of the sharding."""

    # Number of applied updates.
    updates: int
    # First and second moments.
    first: Mapping[str, Tensor]
    second: Mapping[str, Tensor]


class Engine(Protocol):
    """One network, its optimiser, and the communication between workers.

    A step is `begin_pass`, one forward call and one `backward` for each micro-batch, then `step`.
    Methods marked "collective" must be called by all workers.
    """

    module: nn.Module

    def begin_pass(self, *, last: bool) -> None:
        """Begin a micro-batch; gradients are reduced over workers in the last one of a step."""

    def __call__(self, *inputs: Any) -> Any:
        """Run the network's forward pass."""

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of a micro-batch's loss over the number of micro-batches."""

    def frozen(self) -> AbstractContextManager[nn.Module]:
        """Yield the bare network with `requires_grad` off for its parameters."""

    def step(self, learning_rate_scale: float) -> StepOutcome:
        """Clip and apply the gradients, or drop them if not finite; collective."""

    def shards(self) -> dict[str, Tensor]:
        """Return views of this worker's flat fp32 shard of every trained parameter.

        Shards of a parameter have ceil(numel / workers) values, zero-padded at the end.
        """

    def full_weights(self) -> dict[str, Tensor]:
        """Return whole parameters on the main worker's CPU, nothing elsewhere; collective."""

    def full_moments(self) -> OptimizerMoments:
        """Return the whole optimiser state on the main worker's CPU; collective."""

    def load_moments(self, moments: OptimizerMoments) -> None:
        """Load whole optimiser state, the same on all workers."""

    def optimizer_shard(self) -> dict[str, Any]:
        """Return this worker's optimiser state: tensors, numbers, lists and dicts."""

    def load_optimizer_shard(self, shard: Mapping[str, Any]) -> None:
        """Load `optimizer_shard` of the same engine with the same number of workers."""
