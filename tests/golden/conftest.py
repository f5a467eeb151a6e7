"""The weight fill and input rules by which the golden outputs were made."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

Manifest = dict[str, dict[str, Any]]


@pytest.fixture(scope="session")
def manifest(official_dir: Path) -> Callable[[str], Manifest]:
    """Read a manifest: key to shape, dtype, kind and role."""
    return lambda name: json.loads((official_dir / f"{name}.json").read_text())


def standard_normal(key: str, shape: tuple[int, ...]) -> np.ndarray:
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    return generator.standard_normal(shape).astype(np.float32)


def value(role: str, z: np.ndarray, rule: str) -> np.ndarray:
    small = 0.02 if rule == "A" else 0.1
    match role:
        case "norm_weight":
            return 1 + small * z
        case "running_var":
            return np.abs(1 + small * z)
        case "norm_bias" | "running_mean" | "bias":
            return small * z
    return 0.02 * z if rule == "A" else z / np.sqrt(np.prod(z.shape[1:]))


@pytest.fixture(scope="session")
def fill() -> Callable[..., nn.Module]:
    """Overwrite a module's weights by rule A or B, roles taken from its manifest."""

    @torch.no_grad()
    def fill_module(module: nn.Module, roles: Manifest, rule: str) -> nn.Module:
        for key, tensor in module.state_dict().items():
            role = roles[key]["role"]
            if role not in ("sinusoid", "counter"):
                z = standard_normal(key, tuple(tensor.shape))
                tensor.copy_(torch.from_numpy(np.asarray(value(role, z, rule), np.float32)))
        return module.eval()

    return fill_module


@pytest.fixture(scope="session")
def assert_golden() -> Callable[..., None]:
    """Compare with a golden array: largest error at most 1e-4 of its largest magnitude."""

    def check(actual: Any, golden: np.ndarray, what: str) -> None:
        actual = np.asarray(actual)
        assert actual.shape == golden.shape, what
        scale = np.abs(golden).max()
        error = np.abs(actual.astype(np.float64) - golden).max() / scale
        assert error <= 1e-4, f"{what}: relative error {error:.2e}"

    return check
