"""The running average of the weights, kept in pieces: each worker averages what it owns."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from xnemo.training.engines.engine import Engine
from xnemo.training.engines.flat_shards import flat_shard, gather_shards
from xnemo.training.engines.world import World
from xnemo.training.optimizer_config import EmaConfig


class ShardedEma:
    """Power-profile average of an engine's parameters and of its module's buffers.

    The averaging window grows with the run, so there is no half-life to tune, and a step's share
    depends on samples alone: `1 - (1 - batch / seen) ** (power + 1)` (EDM2, equation 122).
    """

    def __init__(self, engine: Engine, config: EmaConfig, world: World) -> None:
        self._engine = engine
        self._world = world
        self._power = power_of_width(config.relative_width)
        self._average = {name: shard.clone() for name, shard in engine.shards().items()}
        # Fixed tables are no part of a state dict and need no average.
        saved = engine.module.state_dict().keys()
        self._buffers = {
            name: buffer.clone()
            for name, buffer in engine.module.named_buffers()
            if name in saved and buffer.is_floating_point()
        }

    @torch.no_grad()
    def update(self, samples_seen: int, batch: int) -> None:
        """Take in the weights after a step that ended at `samples_seen`."""
        share = 1 - (1 - min(1.0, batch / samples_seen)) ** (self._power + 1)
        now = self._engine.shards()
        torch._foreach_lerp_(list(self._average.values()), [now[n] for n in self._average], share)
        # A batch norm's own average spans a few batches only; averaging it too keeps the pair
        # matched.
        buffers = dict(self._engine.module.named_buffers())
        torch._foreach_lerp_(
            list(self._buffers.values()), [buffers[n] for n in self._buffers], share
        )

    def full(self) -> dict[str, Tensor]:
        """Return averages of all trained parameters and buffers on the main worker; all workers."""
        shapes = _whole_shapes(self._engine.module)
        whole = gather_shards(self._average, shapes, self._world)
        if self._world.is_main:
            whole |= {name: buffer.cpu().clone() for name, buffer in self._buffers.items()}
        return whole

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Return this worker's piece, as `load_state` takes it."""
        return {"average": self._average, "buffers": self._buffers}

    def load_state(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take back this worker's piece."""
        for mine, saved in ((self._average, state["average"]), (self._buffers, state["buffers"])):
            for name, value in saved.items():
                mine[name].copy_(value)

    def load_full(self, tensors: Mapping[str, Tensor]) -> None:
        """Cut this worker's piece out of whole tensors; what only one side knows is passed over."""
        for name, average in self._average.items():
            if name in tensors:
                average.copy_(flat_shard(tensors[name], self._world.rank, self._world.size))
        for name, buffer in self._buffers.items():
            if name in tensors:
                buffer.copy_(tensors[name])


def power_of_width(relative_width: float) -> float:
    """Return the power of the profile whose window has this relative width (EDM2, equation 126)."""
    coefficients = [1, 7, 16 - relative_width**-2, 12 - relative_width**-2]
    return float(np.roots(coefficients).real.max())


def _whole_shapes(module: nn.Module) -> dict[str, torch.Size]:
    """Return the shapes of parameters, also of those ZeRO-3 has emptied."""
    return {
        name: torch.Size(getattr(p, "ds_shape", p.shape)) for name, p in module.named_parameters()
    }
