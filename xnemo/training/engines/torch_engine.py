"""The PyTorch engine: one process, or DistributedDataParallel over several."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from xnemo.training.engines.engine import OptimizerMoments, StepOutcome
from xnemo.training.engines.world import World, flat_shard


class TorchEngine:
    """Weights and optimiser state in fp32 on every worker; DDP averages the gradients."""

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
            # The strides of a 1x1 kernel are ambiguous, and torch warns about each.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view")
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
            warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
            # Buffers are batch norm statistics: synchronised, or each worker's own by setting.
            # All parameters are used. Without find_unused_parameters DDP rebuilds its buckets after
            # the first step, which changes the order of summation over three or more workers: a
            # resumed run would differ in the last bit from an uninterrupted one.
            self._ddp = DistributedDataParallel(
                self.module,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
                find_unused_parameters=True,
            )

    def begin_pass(self, *, last: bool) -> None:
        """Reduce gradients only in the last micro-batch of a step."""
        if self._ddp is not None:
            self._ddp.require_backward_grad_sync = last

    def __call__(self, *inputs: Any) -> Any:
        """Run the network's forward pass."""
        return (self._ddp or self.module)(*inputs)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of a micro-batch's loss."""
        torch.autograd.backward(loss / self._accumulation)

    @contextmanager
    def frozen(self) -> Iterator[nn.Module]:
        """Yield the bare module with `requires_grad` off for its parameters."""
        for parameter in self._trained:
            parameter.requires_grad_(False)
        try:
            yield self.module
        finally:
            for parameter in self._trained:
                parameter.requires_grad_(True)

    def step(self, learning_rate_scale: float) -> StepOutcome:
        """Clip by global norm and update; gradients and outcome are equal on all workers."""
        norm = torch.nn.utils.clip_grad_norm_(self._trained, self._clip)
        applied = bool(torch.isfinite(norm))
        if applied:
            for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
                group["lr"] = rate * learning_rate_scale
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return StepOutcome(float(norm), applied)

    def shards(self) -> dict[str, Tensor]:
        """Return this worker's shard of every trained parameter."""
        return {
            self._names[id(p)]: flat_shard(p.detach(), self._world.rank, self._world.size)
            for p in self._trained
        }

    def full_weights(self) -> dict[str, Tensor]:
        """Return all parameters on the main worker."""
        if not self._world.is_main:
            return {}
        return {name: p.detach().cpu() for name, p in self.module.named_parameters()}

    def full_moments(self) -> OptimizerMoments:
        """Return the optimiser's state by parameter name."""
        states = {self._names[id(p)]: self._optimizer.state[p] for p in self._trained}
        # The blocks of an 8-bit optimiser are only saved in engine shards.
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
        """Load AdamW's state; parameters without moments start without state."""
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

    def optimizer_shard(self) -> dict[str, Any]:
        """Return the optimiser state, which is the same on every worker."""
        return self._optimizer.state_dict()

    def load_optimizer_shard(self, shard: Mapping[str, Any]) -> None:
        """Load the optimiser state; hyperparameters stay those of this run's settings."""
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": shard["state"], "param_groups": groups})
