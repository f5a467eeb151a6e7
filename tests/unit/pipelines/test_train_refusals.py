"""What a training job cannot start with is refused before anything is left behind."""

from pathlib import Path

import pytest
from moving_faces import write_dataset
from tiny_run import nano_config

from pipelines.train import train
from preprocessing.errors import UserError


def test_weights_that_are_not_there_are_refused_and_no_run_is_left(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", clips=3)
    config = nano_config(init_from=str(tmp_path / "no such bundle"))
    with pytest.raises(UserError, match="no such bundle: no such file or folder"):
        train(config, str(data), "first", out=tmp_path / "runs")
    assert list(tmp_path.iterdir()) == [data]
