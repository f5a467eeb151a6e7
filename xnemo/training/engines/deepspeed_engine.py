"""The ZeRO engine: optimiser state, gradients or parameters sharded by DeepSpeed.

This is the only module that imports deepspeed, and only when an engine is built, because the import
takes seconds. Networks are built whole on each worker's host and sharded by `initialize`; under
`zero.Init` initialisers and loaders would receive empty tensors.
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from xnemo.training.engines.engine import OptimizerMoments, StepOutcome
from xnemo.training.engines.world import World, flat_shard

# Largest number of gradient elements reduced at once. DeepSpeed's default is five times this and
# takes 2 GB per engine.
_BUCKET = 100_000_000


def zero_config(
    *, stage: int, micro_batch: int, accumulation: int, workers: int, clip: float, elements: int
) -> dict[str, Any]:
    """Return DeepSpeed's configuration, in fp32 (bf16 is autocast inside the network)."""
    return {
        "train_batch_size": micro_batch * accumulation * workers,
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": clip,
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": torch.cuda.is_available(),
            # DeepSpeed allocates a buffer of this size even if the network is smaller.
            "reduce_bucket_size": min(_BUCKET, elements),
        },
        # The optimiser is passed in: parameter groups have different learning rates.
        "zero_allow_untested_optimizer": True,
        "steps_per_print": sys.maxsize,
    }


class DeepSpeedEngine:
    """ZeRO stage 1, 2 or 3 over the workers of torch.distributed."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        world: World,
        *,
        stage: int,
        clip: float,
        accumulation: int,
        micro_batch: int,
    ) -> None:
        deepspeed = _import_deepspeed()
        self._world = world
        self._stage = stage
        self._named = dict(module.named_parameters())
        self._shapes = {name: p.shape for name, p in self._named.items()}
        self._trained = [p for group in optimizer.param_groups for p in group["params"]]
        self._names = {id(p): name for name, p in self._named.items()}
        self._rates = [group["lr"] for group in optimizer.param_groups]
        # Some releases run a step on zero gradients to allocate state; it must not decay weights.
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        self._engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=optimizer,
            config=zero_config(
                stage=stage,
                micro_batch=micro_batch,
                accumulation=accumulation,
                workers=world.size,
                clip=clip,
                elements=sum(p.numel() for p in self._trained),
            ),
        )
        self.module = self._engine.module
        self._inner = self._engine.optimizer.optimizer
        if isinstance(self._inner, torch.optim.AdamW):
            self._allocate_state()

    def begin_pass(self, *, last: bool) -> None:
        """Mark whether this micro-batch is the last of the step."""
        self._engine.set_gradient_accumulation_boundary(last)

    def __call__(self, *inputs: Any) -> Any:
        """Run the network's forward pass."""
        return self._engine(*inputs)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of a micro-batch's loss; DeepSpeed divides by their number."""
        self._engine.backward(loss)

    @contextmanager
    def frozen(self) -> Iterator[nn.Module]:
        """Yield the module with `requires_grad` off for its parameters.

        Otherwise ZeRO's hooks on them would run in the other engine's backward pass.
        """
        for parameter in self._trained:
            parameter.requires_grad_(False)
        try:
            yield self.module
        finally:
            for parameter in self._trained:
                parameter.requires_grad_(True)

    def step(self, learning_rate_scale: float) -> StepOutcome:
        """Clip by global norm and update; ZeRO drops non-finite gradients on all workers."""
        for group, rate in zip(self._inner.param_groups, self._rates, strict=True):
            group["lr"] = rate * learning_rate_scale
        self._engine.step()
        applied = not self._engine.optimizer.overflow
        norm = float(self._engine.get_global_grad_norm()) if applied else float("inf")
        return StepOutcome(norm, applied)

    def shards(self) -> dict[str, Tensor]:
        """Return this worker's shard of every trained parameter, as stage 3 holds it."""
        return {self._names[id(p)]: self._shard(p) for p in self._trained}

    def full_weights(self) -> dict[str, Tensor]:
        """Return whole parameters on the main worker; collective."""
        if self._stage == 3:
            shards = {name: self._shard(p) for name, p in self._named.items()}
            return self._world.gather_shards(shards, self._shapes)
        if not self._world.is_main:
            return {}
        return {name: p.detach().cpu() for name, p in self._named.items()}

    def full_moments(self) -> OptimizerMoments:
        """Return AdamW's state by parameter name; collective."""
        from deepspeed.utils import safe_get_full_optimizer_state

        updates = self._updates()
        found: dict[str, dict[str, Tensor]] = {"exp_avg": {}, "exp_avg_sq": {}}
        if not isinstance(self._inner, torch.optim.AdamW):
            # The blocks of an 8-bit optimiser are only saved in engine shards.
            return OptimizerMoments(updates, {}, {})
        for parameter in self._trained:
            for key, tensors in found.items():
                whole = safe_get_full_optimizer_state(parameter, key)
                if self._world.is_main:
                    name = self._names[id(parameter)]
                    tensors[name] = whole.view(self._shapes[name]).cpu()
        return OptimizerMoments(updates, found["exp_avg"], found["exp_avg_sq"])

    def load_moments(self, moments: OptimizerMoments) -> None:
        """Load AdamW's state from whole tensors; parameters without moments keep zeros."""
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if not moments.first or not isinstance(self._inner, torch.optim.AdamW):
            return
        for parameter in self._trained:
            name = self._names[id(parameter)]
            if name not in moments.first:
                continue
            for key, values in (("exp_avg", moments.first), ("exp_avg_sq", moments.second)):
                value = values[name].to(self._world.device)
                if self._stage == 3:
                    shard = flat_shard(value, self._world.rank, self._world.size)
                    safe_set_local_optimizer_state(parameter, shard, key)
                else:
                    safe_set_full_optimizer_state(parameter, value, key)
        for state in self._inner.state.values():
            state["step"].fill_(moments.updates)

    def optimizer_shard(self) -> dict[str, Any]:
        """Return the state of this worker's partitions, in DeepSpeed's order."""
        return {"partitions": [dict(self._inner.state[flat]) for flat in self._partitions()]}

    def load_optimizer_shard(self, shard: Mapping[str, Any]) -> None:
        """Copy the state into this worker's partitions."""
        for flat, saved in zip(self._partitions(), shard["partitions"], strict=True):
            state = self._inner.state[flat]
            for name, value in saved.items():
                if name in state and torch.is_tensor(state[name]):
                    state[name].copy_(value)
                else:
                    state[name] = value

    def _partitions(self) -> list[Tensor]:
        """Return the flat fp32 tensors that the optimiser updates."""
        if self._stage == 3:
            return list(self._engine.optimizer.fp32_partitioned_groups_flat)
        return [flat for group in self._inner.param_groups for flat in group["params"]]

    def _shard(self, parameter: nn.Parameter) -> Tensor:
        if self._stage == 3:
            shard: Tensor = parameter.ds_tensor.detach()  # type: ignore[attr-defined]
            return shard
        return flat_shard(parameter.detach(), self._world.rank, self._world.size)

    def _updates(self) -> int:
        steps = [state["step"] for state in self._inner.state.values() if "step" in state]
        return int(steps[0]) if steps else 0

    def _allocate_state(self) -> None:
        """Allocate the optimiser's state, zero and without a step, so that it can be loaded into.

        Otherwise stages 1 and 2 link parameters to their state in the first group's first step,
        before other groups have any, and stage 3 has no state before its first step.
        """
        fused = any(group["fused"] for group in self._inner.param_groups)
        for flat in self._partitions():
            self._inner.state[flat] = {
                "step": torch.zeros((), device=flat.device if fused else None),
                "exp_avg": torch.zeros_like(flat),
                "exp_avg_sq": torch.zeros_like(flat),
            }
        if self._stage != 3:
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()


def _import_deepspeed() -> Any:
    """Import DeepSpeed without compilation, MPI discovery or informational logs."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("LOCAL_RANK", "0")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    if not dist.is_initialized():
        # Without a process group DeepSpeed tries to create one with MPI.
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        store = dist.HashStore()
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
    import deepspeed
    import deepspeed.comm

    # On a CPU it would compile a shared-memory all-reduce for a minute; gloo is sufficient.
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    return deepspeed
