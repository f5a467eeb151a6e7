"""Deterministic initialisation of modules that were built on the meta device."""

import hashlib

import torch
from torch import nn


def initialise(module: nn.Module, seed: int, name: str = "") -> set[str]:
    """Initialise every parameter and buffer that is still on the meta device, on the CPU.

    Returns the names inside `module` of the layers that were initialised.

    Each layer uses a generator seeded by `seed` and its name, so that its weights do not depend on
    the other layers (a denoiser has the same weights with and without temporal modules), nor on
    what was loaded before. Tensors with values keep them.

    Raises:
        TypeError: A layer with parameters has no `reset_parameters`.
    """
    fresh = set()
    with torch.random.fork_rng(devices=[]):
        for child_name, child in module.named_modules(prefix=name):
            own = [*child.parameters(recurse=False), *child.buffers(recurse=False)]
            if not any(tensor.is_meta for tensor in own):
                continue
            if not hasattr(child, "reset_parameters"):
                raise TypeError(f"{child_name} ({type(child).__name__}) has no reset_parameters")
            # Not torch.manual_seed, which also formats stack traces for CUDA, MPS and XPU.
            torch.default_generator.manual_seed(layer_seed(seed, child_name))
            child.to_empty(device="cpu", recurse=False)
            child.reset_parameters()
            fresh.add(child_name.removeprefix(name).removeprefix("."))
    return fresh


def layer_seed(seed: int, name: str) -> int:
    """Return a 63-bit seed derived from a run's seed and a layer's name."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
