"""One small data set for all tests of the loader."""

import importlib.util
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[3] / "support"


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of six clips of moving faces."""
    spec = importlib.util.spec_from_file_location("moving_faces", TESTS / "moving_faces.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.write_dataset(tmp_path_factory.mktemp("faces"))
