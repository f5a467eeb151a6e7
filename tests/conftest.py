"""Fixtures shared by every test: threads, the folder of real material, one local Ray."""

import os

# Before anything imports torch or BLAS: two cores are shared by all workers of a test.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")

from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of reference fixtures and real clips, which is no part of the project."""
    folder = Path(os.environ.get("XNEMO_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(
            f"no folder {folder}: set XNEMO_SHARED to the reference fixtures and real clips"
        )
    return folder


@pytest.fixture(scope="session")
def official_dir() -> Path:
    """Manifests and golden outputs of the authors' classes."""
    return ROOT / "tests" / "golden" / "fixtures"


@pytest.fixture(scope="session")
def assets_dir(shared_dir: Path) -> Path:
    """Real clips, portraits and small weights."""
    return shared_dir / "assets"


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """One Ray of two CPUs in this process, for every test that asks for it."""
    import ray

    from pipelines.cluster.connect import connect

    with connect(None, num_cpus=2):
        assert ray.is_initialized()
        yield
