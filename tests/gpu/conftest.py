"""The device of the tests, and the benchmarks' steps on random pixels.

`XNEMO_GPU_TEST_DEVICE=cpu` runs the same tests without a GPU.
"""

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The device under test."""
    return torch.device(os.environ.get("XNEMO_GPU_TEST_DEVICE", "cuda"))
