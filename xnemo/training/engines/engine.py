"""What training asks of an engine; DistributedDataParallel and ZeRO both give it."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class StepOutcome:
    """What became of an optimiser step, the same on all workers."""

    # Norm of the gradient over all parameters before clipping; infinite or NaN where it was
    # skipped.
    grad_norm: float
    # Whether the weights changed.
    applied: bool


@dataclass(frozen=True)
class OptimizerMoments:
    """AdamW's state by parameter name, whole, whatever the sharding."""

    # Updates applied so far.
    updates: int
    # First and second moments.
    first: Mapping[str, Tensor]
    second: Mapping[str, Tensor]


class Engine(Protocol):
    """One network, its optimiser, and the talk between workers.

    A step is: for each micro-batch `begin_pass`, one call, one `backward`; then `step`. Methods
    marked "all workers" are collectives.
    """

    module: nn.Module

    def begin_pass(self, *, last: bool) -> None:
        """Announce a micro-batch; gradients are exchanged in the last of a step."""

    def __call__(self, *inputs: Any) -> Any:
        """Run the network forwards."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this micro-batch's loss, divided by the number of micro-batches."""

    def frozen(self) -> AbstractContextManager[Any]:
        """Lend the network for a pass that gives its parameters no gradient, inside a `with`."""

    def step(self, learning_rate_scale: float) -> StepOutcome:
        """Clip, check and apply the gradients on all workers, or drop them where not finite."""

    def shards(self) -> dict[str, Tensor]:
        """Return this worker's flat fp32 piece of every parameter, views that follow training.

        Pieces of a parameter are equally long on all workers, ceil(numel / workers), zero-padded at
        the end.
        """

    def full_weights(self) -> dict[str, Tensor]:
        """Return whole parameters on the CPU of the main worker, elsewhere nothing; all workers."""

    def full_moments(self) -> OptimizerMoments:
        """Return the optimiser's state whole, as `full_weights`; all workers."""

    def load_moments(self, moments: OptimizerMoments) -> None:
        """Set the optimiser's state from whole tensors, given alike to all workers."""

    def optimizer_part(self) -> dict[str, Any]:
        """Return the optimiser's state as this worker keeps it: tensors, numbers, lists, dicts."""

    def load_optimizer_part(self, part: Mapping[str, Any]) -> None:
        """Take back this worker's `optimizer_part`, of as many workers and the same engine."""
