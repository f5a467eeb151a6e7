"""One small data set and the smallest run, for all tests of training."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from xnemo.training.loop import run_training

TESTS = Path(__file__).resolve().parents[3] / "support"


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
def matched_faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, of people who all make the same motions, which are known."""
    root = tmp_path_factory.mktemp("matched")
    return load_module("moving_faces").write_dataset(root, matched=True)


@pytest.fixture(scope="session")
def nano() -> Callable[..., Any]:
    """Build the configuration of the smallest run."""
    return load_module("tiny_run").nano_config


@pytest.fixture(scope="session")
def short_run(
    tmp_path_factory: pytest.TempPathFactory, faces: Path, nano: Callable[..., Any]
) -> Path:
    """A finished run of three steps with two checkpoints; do not change it, copy it."""
    folder = tmp_path_factory.mktemp("runs") / "short"
    run_training(nano(samples=12, checkpoint__every_samples=8), str(faces), folder)
    return folder
