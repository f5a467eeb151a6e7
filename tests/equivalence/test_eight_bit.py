"""An optimiser of 8-bit states: as good as one of 32, and stopped anywhere without a trace."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from xnemo.training.loop import run_training

pytest.importorskip("bitsandbytes", reason="needs pip install 'xnemo[eight-bit]'")

# bitsandbytes leaves tensors of fewer than 4,096 elements in 32 bits; these kernels have 9,216.
SETTINGS = {"network__unet__widths": [32, 32], "samples": 24, "checkpoint__every_samples": 12}
ENGINES = {
    "torch": {},
    "zero2": {"engine__kind": "deepspeed", "engine__zero_stage": 2},
    "zero3": {"engine__kind": "deepspeed", "engine__zero_stage": 3},
}


def weights_at(run: Path, samples: int) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"{samples:012d}" / "bundle" / "raw.safetensors")


def tensors_in(state: Any) -> Iterator[torch.Tensor]:
    if torch.is_tensor(state):
        yield state
    elif isinstance(state, dict | list):
        for value in state.values() if isinstance(state, dict) else state:
            yield from tensors_in(value)


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Root of all squared differences of what is trained."""
    trained = [name for name in a if "running_" not in name and a[name].is_floating_point()]
    return sum(float((a[n] - b[n]).double().square().sum()) for n in trained) ** 0.5


@pytest.fixture(scope="module")
def in_32_bits(tmp_path_factory: pytest.TempPathFactory, faces: Path, nano: Any) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_training(nano(**SETTINGS), str(faces), folder)
    return folder


@pytest.mark.parametrize(
    "engine", ["torch", "zero2", pytest.param("zero3", marks=pytest.mark.slow)]
)
def test_it_trains_alike_and_goes_on_to_the_same_bits(
    engine: str,
    in_32_bits: Path,
    faces: Path,
    tmp_path: Path,
    nano: Callable[..., Any],
    assert_same_bits: Callable[..., None],
) -> None:
    config = nano(**SETTINGS, **ENGINES[engine], optimizer__kind="8bit")
    run_training(config, str(faces), tmp_path / "whole")
    calls = iter([False, False, True])
    run_training(config, str(faces), tmp_path / "stopped", should_stop=lambda: next(calls))
    part = tmp_path / "stopped" / "checkpoints" / f"{12:012d}" / "engine" / "worker0.pt"
    sizes: Counter[torch.dtype] = Counter()
    for tensor in tensors_in(torch.load(part, weights_only=True)["optimizers"]["network"]):
        sizes[tensor.dtype] += tensor.numel()
    assert sizes[torch.uint8] > 3 * sizes[torch.float32] > 0
    run_training(config, str(faces), tmp_path / "stopped", resume="must")
    trained = weights_at(tmp_path / "whole", 24)
    assert_same_bits(weights_at(tmp_path / "stopped", 24), trained)
    moved = distance(weights_at(in_32_bits, 12), weights_at(in_32_bits, 24))
    assert 0 < distance(trained, weights_at(in_32_bits, 24)) < 0.2 * moved
