"""What a training job cannot start with is refused before anything is left behind."""

import socket
from pathlib import Path

import pytest
from moving_faces import write_dataset
from tiny_run import nano_config

from pipelines.preprocess.job import preprocess
from pipelines.train.job import train
from pipelines.tune.job import tune
from preprocessing.errors import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_dataset(tmp_path_factory.mktemp("faces"), clips=3))


def test_missing_weights_are_refused_and_no_run_is_left(data: str, tmp_path: Path) -> None:
    config = nano_config(init_from=str(tmp_path / "no such bundle"))
    with pytest.raises(UserError, match="no such bundle: no such file or folder"):
        train(config, data, "first", runs_dir=tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_that_does_not_answer_is_refused_and_no_run_is_left(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unheard.getsockname()[1]}"
        with pytest.raises(UserError, match=f"no Ray cluster answers at {address}"):
            train(nano_config(), data, "first", runs_dir=tmp_path / "runs", address=address)
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(UserError, match=f"no Ray cluster answers at {address}"):
            train(nano_config(), data, "first", runs_dir=tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []


def test_an_unusable_tracking_uri_is_refused_by_every_job(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    space = tmp_path / "space.yaml"
    space.write_text("optimizer.lr: {loguniform: [1e-4, 1e-3]}\n")
    for wrong in ("foo://bar", "./mlruns"):
        with pytest.raises(UserError, match="is not an MLflow store"):
            train(nano_config(), data, "first", runs_dir=out, tracking_uri=wrong)
        with pytest.raises(UserError, match="is not an MLflow store"):
            preprocess(videos, out, tracking=wrong)
        with pytest.raises(UserError, match="is not an MLflow store"):
            tune(nano_config(), space, data, "search", runs_dir=out, tracking_uri=wrong)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "foo://bar")
    with pytest.raises(UserError, match="is not an MLflow store"):
        train(nano_config(), data, "first", runs_dir=out)
    assert not out.exists()
