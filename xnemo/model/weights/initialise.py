"""Deterministic initialisation of modules that were built on the meta device."""

import hashlib

import torch
from torch import nn


def initialise(module: nn.Module, seed: int, name: str = "") -> set[str]:
    """Give values to every parameter and buffer that is still on the meta device, on the CPU.

    Returns the names inside `module` of the layers that got any.

    Each layer draws from a generator seeded by `seed` and its own name, so that its weights do not
    depend on what else the network has (a denoiser with temporal modules starts from the same
    numbers as one without), nor on what was loaded before. Tensors that have values keep them.

    Raises:
        TypeError: A layer with parameters does not say how to initialise itself.
    """
    fresh = set()
    with torch.random.fork_rng(devices=[]):
        for child_name, child in module.named_modules(prefix=name):
            own = [*child.parameters(recurse=False), *child.buffers(recurse=False)]
            if not any(tensor.is_meta for tensor in own):
                continue
            if not hasattr(child, "reset_parameters"):
                raise TypeError(f"{child_name} ({type(child).__name__}) cannot initialise itself")
            torch.manual_seed(layer_seed(seed, child_name))
            child.to_empty(device="cpu", recurse=False)
            child.reset_parameters()
            fresh.add(child_name.removeprefix(name).removeprefix("."))
    return fresh


def layer_seed(seed: int, name: str) -> int:
    """Return a 63-bit seed that mixes a run's seed with a layer's name."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
