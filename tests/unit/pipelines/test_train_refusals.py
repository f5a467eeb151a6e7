"""What a training job cannot start with is refused before anything is left behind."""

import socket
from pathlib import Path

import pytest
from moving_faces import write_dataset
from tiny_run import nano_config

from pipelines.train import train
from preprocessing.errors import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_dataset(tmp_path_factory.mktemp("faces"), clips=3))


def test_weights_that_are_not_there_are_refused_and_no_run_is_left(
    data: str, tmp_path: Path
) -> None:
    config = nano_config(init_from=str(tmp_path / "no such bundle"))
    with pytest.raises(UserError, match="no such bundle: no such file or folder"):
        train(config, data, "first", out=tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_that_does_not_answer_is_told_and_no_run_is_left(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unheard.getsockname()[1]}"
        with pytest.raises(UserError, match=f"no Ray cluster answers at {address}"):
            train(nano_config(), data, "first", out=tmp_path / "runs", address=address)
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(UserError, match=f"no Ray cluster answers at {address}"):
            train(nano_config(), data, "first", out=tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []
