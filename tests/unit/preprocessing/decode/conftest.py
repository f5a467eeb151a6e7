"""Fixtures of decoder tests: each usable backend, and marked videos written once."""

import importlib
import importlib.util

import pytest
from marked_video import KINDS, MarkedVideo

from preprocessing.decode import Backend

BACKENDS: list[Backend] = ["pyav", "decord", "torchcodec"]


def _is_usable(backend: Backend) -> bool:
    if backend == "torchcodec":
        try:
            return importlib.import_module("torchcodec.decoders") is not None
        except (ImportError, OSError, RuntimeError):
            return False
    return importlib.util.find_spec({"pyav": "av"}.get(backend, backend)) is not None


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """A decoder that is usable on this machine."""
    if not _is_usable(request.param):
        pytest.skip(f"{request.param} is not usable on this machine")
    return request.param


@pytest.fixture(scope="session")
def marked(tmp_path_factory: pytest.TempPathFactory):
    """A function from a kind's name to its video, written on first use."""
    folder = tmp_path_factory.mktemp("marked")
    made: dict[str, MarkedVideo] = {}

    def get(kind: str) -> MarkedVideo:
        if kind not in made:
            made[kind] = KINDS[kind](folder)
        return made[kind]

    return get
