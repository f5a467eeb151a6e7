"""Moving average of the weights, sharded over workers."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from xnemo.training.config.optimizer import EmaConfig
from xnemo.training.engines.engine import Engine
from xnemo.training.engines.world import World, flat_shard


class ShardedEma:
    """Power-profile average of an engine's parameters and of its module's buffers.

    The averaging window grows with the run, so there is no half-life to tune. The weight of a step
    depends on samples only: `1 - (1 - batch / seen) ** (power + 1)` (EDM2, equation 122).
    """

    def __init__(self, engine: Engine, config: EmaConfig, world: World) -> None:
        self._engine = engine
        self._world = world
        self._power = power_of_width(config.relative_width)
        self._average = {name: shard.clone() for name, shard in engine.shards().items()}
        # Constant buffers are not in the state dict and need no average.
        saved = engine.module.state_dict().keys()
        self._buffers = {
            name: buffer.clone()
            for name, buffer in engine.module.named_buffers()
            if name in saved and buffer.is_floating_point()
        }

    @torch.no_grad()
    def update(self, samples_seen: int, batch: int) -> None:
        """Add the weights after a step of `batch` samples that ended at `samples_seen`."""
        share = 1 - (1 - min(1.0, batch / samples_seen)) ** (self._power + 1)
        now = self._engine.shards()
        torch._foreach_lerp_(list(self._average.values()), [now[n] for n in self._average], share)
        # Running statistics are averaged too, so that they match the averaged weights.
        buffers = dict(self._engine.module.named_buffers())
        torch._foreach_lerp_(
            list(self._buffers.values()), [buffers[n] for n in self._buffers], share
        )

    def full(self) -> dict[str, Tensor]:
        """Return all averages as whole tensors on the main worker; collective."""
        # ZeRO-3 leaves parameters empty and keeps their shapes beside them.
        shapes = {
            name: torch.Size(getattr(p, "ds_shape", p.shape))
            for name, p in self._engine.module.named_parameters()
        }
        whole = self._world.gather_shards(self._average, shapes)
        if self._world.is_main:
            whole |= {name: buffer.cpu().clone() for name, buffer in self._buffers.items()}
        return whole

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Return this worker's shard of the averages."""
        return {"average": self._average, "buffers": self._buffers}

    def load_state(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Load this worker's shard, as returned by `state`."""
        for mine, saved in ((self._average, state["average"]), (self._buffers, state["buffers"])):
            for name, value in saved.items():
                mine[name].copy_(value)

    def load_full(self, tensors: Mapping[str, Tensor]) -> None:
        """Load this worker's shard from whole tensors; names without a tensor are unchanged."""
        for name, average in self._average.items():
            if name in tensors:
                average.copy_(flat_shard(tensors[name], self._world.rank, self._world.size))
        for name, buffer in self._buffers.items():
            if name in tensors:
                buffer.copy_(tensors[name])


def power_of_width(relative_width: float) -> float:
    """Return the power of the profile with this relative width (EDM2, equation 126)."""
    coefficients = [1, 7, 16 - relative_width**-2, 12 - relative_width**-2]
    return float(np.roots(coefficients).real.max())
