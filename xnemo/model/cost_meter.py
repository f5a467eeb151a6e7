"""Measuring operations and kept activations of a step on the meta device, without arithmetic."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode


class FusedAttention(TorchFunctionMode):
    """Replaces attention on the meta device by a fused kernel, which keeps no attention matrix."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run a function of torch, attention by the fused kernel."""
        if func is F.scaled_dot_product_attention:
            # The mask is broadcast from a row; its cost is negligible.
            kernel = torch.ops.aten._scaled_dot_product_efficient_attention
            return kernel(*args[:3], None, True)[0]
        return func(*args, **(kwargs or {}))


class CostMeter:
    """Counts operations, and bytes kept for the backward pass with and without checkpoints."""

    def __init__(self) -> None:
        self.flops = 0.0
        self.recomputed = 0.0
        self._outside = 0
        self._inside = 0
        self._inputs = 0
        self._largest = 0
        self._counter: FlopCounterMode | None = None
        self._seen: dict[int, Tensor] = {}
        self._ignored: set[int] = set()
        self._depth = 0

    @property
    def kept(self) -> int:
        """Bytes kept without checkpoints."""
        return self._outside + self._inside

    @property
    def kept_with_checkpoints(self) -> int:
        """Bytes kept with checkpoints: inputs of all checkpointed layers, and the largest layer."""
        return self._outside + self._inputs + self._largest

    @contextmanager
    def measure(self, modules: Iterable[nn.Module]) -> Iterator[None]:
        """Count everything that runs inside; weights of `modules` do not count as kept."""
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                self._ignored.add(tensor.untyped_storage()._cdata)
        with (
            FlopCounterMode(display=False) as counter,
            saved_tensors_hooks(self._keep, lambda tensor: tensor),
        ):
            self._counter = counter
            yield
        self.flops = float(counter.get_total_flops())
        self._seen.clear()

    def checkpoint(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a layer that checkpointing would recompute, and count its cost separately."""
        assert self._counter is not None
        self._inputs += sum(_bytes(arg) for arg in args if isinstance(arg, Tensor))
        inside, flops = self._inside, self._counter.get_total_flops()
        self._depth += 1
        result = function(*args)
        self._depth -= 1
        self._largest = max(self._largest, self._inside - inside)
        self.recomputed += self._counter.get_total_flops() - flops
        return result

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in self._seen and storage not in self._ignored:
            # Held, so that no other storage gets the same address while this one is counted.
            self._seen[storage] = tensor
            if self._depth:
                self._inside += _bytes(tensor)
            else:
                self._outside += _bytes(tensor)
        return tensor


def _bytes(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()
