"""Run training in worker processes of their own, and compare what comes out."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

TESTS = Path(__file__).resolve().parent.parent / "support"
WORKER = Path(__file__).resolve().parent / "train_worker.py"


def load_module(name: str) -> ModuleType:
    """Import a module that lies in tests/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, TESTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of six clips of moving faces."""
    return load_module("moving_faces").write_dataset(tmp_path_factory.mktemp("faces"))


@pytest.fixture(scope="session")
def nano() -> Callable[..., Any]:
    """Build the configuration of the smallest run."""
    return load_module("tiny_run").nano_config


@pytest.fixture
def run_workers(tmp_path: Path, faces: Path) -> Callable[..., dict[str, Path]]:
    """Run scenarios, one after the other, in a group of workers; returns the run folders by name.

    A scenario is a name and dotted settings with `__` for the dot. Naming a run twice goes on with
    it. Beside settings there are `stop_at` (steps until a stop is asked for) and `kill_at`
    (forward passes until SIGKILL).
    """

    def run(
        world: int, scenarios: Sequence[tuple[str, Mapping[str, Any]]], *, killed: bool = False
    ) -> dict[str, Path]:
        folders = {name: tmp_path / name for name, _ in scenarios}
        store = tmp_path / f"store{len(list(tmp_path.glob('store*')))}"
        task = {
            "data": str(faces),
            "store": str(store),
            "runs": [[str(folders[name]), changes] for name, changes in scenarios],
        }
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS.parent.parent)}
        workers = [
            subprocess.Popen(
                [sys.executable, str(WORKER), str(rank), str(world), json.dumps(task)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(world)
        ]
        outputs = [worker.communicate(timeout=900)[0] for worker in workers]
        wanted = -signal.SIGKILL if killed else 0
        # Of whoever ended first the others only say that the connection is gone: show them all.
        told = "\n".join(
            f"== worker {rank} ended with {worker.returncode}\n{output[-2500:]}"
            for rank, (worker, output) in enumerate(zip(workers, outputs, strict=True))
        )
        assert all(worker.returncode == wanted for worker in workers), told
        return folders

    return run


@pytest.fixture(scope="session")
def weights_of() -> Callable[[Path], dict[str, torch.Tensor]]:
    """Read raw and averaged weights and the optimisers' moments that a run ended with."""

    def read(run: Path) -> dict[str, torch.Tensor]:
        last = max((run / "checkpoints").iterdir()) / "bundle"
        return {
            f"{kind}.{name}": tensor
            for kind in ("raw", "ema", "moments")
            for name, tensor in load_file(last / f"{kind}.safetensors").items()
        }

    return read


@pytest.fixture(scope="session")
def assert_same_bits() -> Callable[..., None]:
    """Compare weights bit for bit."""

    def compare(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> None:
        assert a.keys() == b.keys()
        different = [name for name in a if not torch.equal(a[name], b[name])]
        assert not different, different[:5]

    return compare


@pytest.fixture(scope="session")
def assert_close_weights() -> Callable[..., None]:
    """Compare weights parameter by parameter; running statistics included."""

    def compare(
        a: Mapping[str, torch.Tensor],
        b: Mapping[str, torch.Tensor],
        *,
        tolerance: float,
        skip: Sequence[str] = (),
    ) -> None:
        assert a.keys() == b.keys()
        worst = {
            name: float((a[name].double() - b[name].double()).abs().max())
            for name in a
            if not any(part in name for part in skip)
        }
        name = max(worst, key=lambda key: worst[key])
        assert worst[name] <= tolerance, (name, worst[name])

    return compare
