"""The plain engine: one process, or DistributedDataParallel over several."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from xnemo.training.engines.engine import OptimizerMoments, StepOutcome
from xnemo.training.engines.flat_shards import flat_shard
from xnemo.training.engines.world import World


class TorchEngine:
    """fp32 weights on every worker, gradients averaged by DDP, the optimiser's step on each."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        world: World,
        *,
        clip: float,
        accumulation: int,
    ) -> None:
        self.module = module.to(world.device)
        self._optimizer = optimizer
        self._world = world
        self._clip = clip
        self._accumulation = accumulation
        self._rates = [group["lr"] for group in optimizer.param_groups]
        self._trained = [p for group in optimizer.param_groups for p in group["params"]]
        self._names = {id(p): name for name, p in module.named_parameters()}
        self._ddp: DistributedDataParallel | None = None
        if world.size > 1:
            # A 1x1 kernel's strides are ambiguous; torch warns of each.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view")
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
            warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
            # Buffers are batch norms' statistics: synced, or a worker's own by the user's choice.
            # All parameters are used. Without looking for others DDP lays its buckets out anew
            # after the first step, and three or more workers then add up in another order: a
            # resumed run would differ in the last bit from one that went on.
            self._ddp = DistributedDataParallel(
                self.module,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
                find_unused_parameters=True,
            )

    def begin_pass(self, *, last: bool) -> None:
        """Switch gradient exchange on for the last micro-batch of a step, else off."""
        if self._ddp is not None:
            self._ddp.require_backward_grad_sync = last

    def __call__(self, *inputs: Any) -> Any:
        """Run the network forwards."""
        return (self._ddp or self.module)(*inputs)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this micro-batch's loss."""
        (loss / self._accumulation).backward()

    @contextmanager
    def frozen(self) -> Iterator[nn.Module]:
        """Lend the bare module with its parameters frozen."""
        for parameter in self._trained:
            parameter.requires_grad_(False)
        try:
            yield self.module
        finally:
            for parameter in self._trained:
                parameter.requires_grad_(True)

    def step(self, learning_rate_scale: float) -> StepOutcome:
        """Clip by global norm and update; gradients are equal on all workers, so all agree."""
        norm = torch.nn.utils.clip_grad_norm_(self._trained, self._clip)
        applied = bool(torch.isfinite(norm))
        if applied:
            for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate * learning_rate_scale
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return StepOutcome(float(norm), applied)

    def shards(self) -> dict[str, Tensor]:
        """Return this worker's slice of every trained parameter."""
        return {
            self._names[id(p)]: flat_shard(p.detach(), self._world.rank, self._world.size)
            for p in self._trained
        }

    def full_weights(self) -> dict[str, Tensor]:
        """Return all parameters; every worker has them, the main one answers."""
        if not self._world.is_main:
            return {}
        return {name: p.detach().cpu() for name, p in self.module.named_parameters()}

    def full_moments(self) -> OptimizerMoments:
        """Return the optimiser's state by parameter name."""
        states = {self._names[id(p)]: self._optimizer.state[p] for p in self._trained}
        # An 8-bit optimiser's blocks mean nothing by parameter name; engine shards keep them.
        present = {name: state for name, state in states.items() if "exp_avg" in state}
        updates = int(next(iter(present.values()))["step"]) if present else 0
        if not self._world.is_main:
            present = {}
        return OptimizerMoments(
            updates,
            {name: state["exp_avg"].cpu() for name, state in present.items()},
            {name: state["exp_avg_sq"].cpu() for name, state in present.items()},
        )

    def load_moments(self, moments: OptimizerMoments) -> None:
        """Set the optimiser's state; parameters without moments begin with none."""
        if not isinstance(self._optimizer, torch.optim.AdamW):
            return
        for parameter in self._trained:
            name = self._names[id(parameter)]
            if name in moments.first:
                self._optimizer.state[parameter] = {
                    "step": torch.tensor(float(moments.updates)),
                    "exp_avg": moments.first[name].to(parameter),
                    "exp_avg_sq": moments.second[name].to(parameter),
                }

    def optimizer_part(self) -> dict[str, Any]:
        """Return the optimiser's whole state: every worker has the same."""
        return self._optimizer.state_dict()

    def load_optimizer_part(self, part: Mapping[str, Any]) -> None:
        """Take the state back; rates stay those of this run's settings."""
        mine = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": part["state"], "param_groups": mine})
