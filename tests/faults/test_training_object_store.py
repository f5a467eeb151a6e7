"""Data and checkpoints in an object store of which one call in five fails."""

import os
from pathlib import Path

import fsspec
import pytest
import torch
from moving_faces import write_dataset
from s3_server import BUCKET, s3_server
from safetensors.torch import load_file
from tiny_run import nano_config

from pipelines.train.run_folder import open_run
from xnemo.training.checkpoint.download import find_uploaded
from xnemo.training.loop import run_training

pytestmark = pytest.mark.slow

SETTINGS = {"samples": 24, "checkpoint__every_samples": 8}


def weights(run: Path) -> dict[str, torch.Tensor]:
    raw = load_file(run / "bundle" / "raw.safetensors")
    return raw | {f"ema.{k}": v for k, v in load_file(run / "bundle" / "ema.safetensors").items()}


def test_a_run_reads_from_it_and_resumes_from_it_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces = write_dataset(tmp_path / "faces")
    run_training(nano_config(**SETTINGS), str(faces), tmp_path / "local" / "run")
    with s3_server() as (environment, server):
        for name in environment.keys() - os.environ.keys():
            monkeypatch.setenv(name, environment[name])
        fsspec.filesystem("s3", skip_instance_cache=True).put(
            str(faces), f"{BUCKET}/faces", recursive=True
        )
        server._every = 5
        data, upload = f"s3://{BUCKET}/faces", f"s3://{BUCKET}/uploads"
        settings = {**SETTINGS, "data__workers": 2, "checkpoint__upload": upload}
        first, other = tmp_path / "first" / "run", tmp_path / "other" / "run"
        steps = iter([False, False, True])
        run_training(nano_config(**settings), data, first, should_stop=lambda: next(steps))
        assert find_uploaded(upload, first) == 12
        with open_run(other, nano_config(**settings), "must") as folder:
            assert folder.resumes_at == 12
        run_training(nano_config(**settings), data, other, resume="must")
        assert server.failed > 5
    ours, theirs = weights(other), weights(tmp_path / "local" / "run")
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
