"""A full disk, a missing shard and a bad clip are one-line errors and leave the weights intact."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from moving_faces import write_dataset
from safetensors.torch import load_file
from tiny_run import nano_config

from preprocessing.errors import UserError
from xnemo.data.clip_table import open_clips
from xnemo.training.checkpoint.store import CheckpointStore
from xnemo.training.loop import run_training
from xnemo.training.monitor.run_log import read_log

pytestmark = pytest.mark.slow

SETTINGS = {"samples": 24, "checkpoint__every_samples": 8, "data__retries": 0}


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("faces"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, faces: Path) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    run_training(nano_config(**SETTINGS), str(faces), run)
    return run


def weights(run: Path) -> dict[str, torch.Tensor]:
    raw = load_file(run / "bundle" / "raw.safetensors")
    return raw | {f"ema.{k}": v for k, v in load_file(run / "bundle" / "ema.safetensors").items()}


def assert_same(a: Path, b: Path) -> None:
    one, other = weights(a), weights(b)
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def small_disk(mount_disk: Callable[[int], Path], undisturbed: Path) -> Path:
    """A file system with room for one checkpoint and no second."""
    return mount_disk(int(1.6 * bytes_of(undisturbed / "checkpoints" / f"{8:012d}")))


@pytest.mark.parametrize("foreseen", [True, False], ids=["foreseen", "while writing"])
def test_a_full_disk_only_loses_checkpoints(
    small_disk: Path,
    undisturbed: Path,
    faces: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    foreseen: bool,
) -> None:
    if not foreseen:
        monkeypatch.setattr(CheckpointStore, "_require_space", lambda self: None)
    run = small_disk / "run"
    with pytest.raises(UserError, match="last checkpoint, at sample 24") as refusal:
        run_training(nano_config(**SETTINGS), str(faces), run)
    assert "\n" not in str(refusal.value)
    assert "cannot write the checkpoint at sample 16" in caplog.text
    assert [p.name for p in (run / "checkpoints").iterdir()] == [f"{8:012d}"]
    subprocess.run(["mount", "-o", "remount,size=256m", str(small_disk)], check=True)
    run_training(nano_config(**SETTINGS), str(faces), run)
    resumed = [r for r in read_log(run) if r.get("event") == "resumed"]
    assert [r["samples_seen"] for r in resumed] == [8]
    assert_same(run, undisturbed)


def test_a_missing_shard_is_named_and_the_run_resumes_with_it(
    tmp_path: Path, undisturbed: Path, faces: Path
) -> None:
    config = nano_config(**SETTINGS)
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(faces, data)
    steps = iter([False, True])
    run_training(config, str(data), run, should_stop=lambda: next(steps))
    (shard,) = (data / "shards").glob("*.tar")
    shard.rename(data / "away")
    with pytest.raises(UserError, match=rf"sample 8 cannot be read: .*{shard.name}") as refusal:
        run_training(config, str(data), run)
    assert "\n" not in str(refusal.value)
    (data / "away").rename(shard)
    run_training(config, str(data), run)
    assert_same(run, undisturbed)


def test_a_bad_clip_has_the_same_substitute_after_a_stop(
    tmp_path: Path, undisturbed: Path, faces: Path
) -> None:
    config = nano_config(**SETTINGS)
    data = tmp_path / "data"
    shutil.copytree(faces, data)
    row = open_clips([str(data)], "split == 'train'").rows.iloc[0]
    with (data / "shards" / row["shard"]).open("r+b") as file:
        file.seek(int(row["mp4_offset"]))
        file.write(bytes(int(row["mp4_length"])))
    whole: dict[str, Any] = run_training(config, str(data), tmp_path / "whole")
    steps = iter([False, False, True])
    run_training(config, str(data), tmp_path / "run", should_stop=lambda: next(steps))
    run_training(config, str(data), tmp_path / "run")
    assert whole["bad_samples"] > 0
    causes = [r["cause"] for r in read_log(tmp_path / "whole") if "cause" in r]
    assert all(row["key"] in cause for cause in causes)
    assert_same(tmp_path / "run", tmp_path / "whole")
    with pytest.raises(AssertionError):
        assert_same(tmp_path / "whole", undisturbed)
