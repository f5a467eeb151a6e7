"""Uploads in the background, and resuming from them on another machine."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.torch import load_file

from pipelines.train.run_folder import open_run
from preprocessing.errors import UserError
from preprocessing.storage.store import open_store
from xnemo.training.checkpoint.bundle import read_meta
from xnemo.training.checkpoint.download import fetch_uploaded, find_uploaded
from xnemo.training.checkpoint.store import Checkpoint, CheckpointStore
from xnemo.training.checkpoint.upload import Uploader
from xnemo.training.config import CheckpointConfig
from xnemo.training.engines.world import World
from xnemo.training.loop import run_training

ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture(params=["memory", "folder"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    MemoryFileSystem.store.clear()
    yield "memory://bucket/runs" if request.param == "memory" else str(tmp_path / "uploads")
    MemoryFileSystem.store.clear()


def checkpoint_of(run: Path, samples: int, size: int = 1000) -> Checkpoint:
    """Save a checkpoint that is as a run's in all that an upload looks at."""

    def fill(folder: Path) -> None:
        for part in ("bundle", "engine"):
            (folder / part).mkdir()
        (folder / "bundle" / "bundle.json").write_text(json.dumps({"config": {"seed": samples}}))
        (folder / "bundle" / "raw.safetensors").write_bytes(bytes([samples]) * size)
        (folder / "engine" / "worker0.pt").write_bytes(b"mine")

    record = {"engine_layout": "torch x 1", "metrics": {}, "guard": {}}
    saved = CheckpointStore(run, CheckpointConfig(keep_last=1), ALONE).save(samples, record, fill)
    assert saved is not None
    return saved


def test_a_run_resumes_bit_for_bit_on_another_machine(
    url: str, tmp_path: Path, faces: Path, nano: Callable[..., Any]
) -> None:
    settings = {"checkpoint__every_samples": 8, "checkpoint__upload": url}
    run, other = tmp_path / "one" / "run", tmp_path / "other" / "run"
    run_training(nano(**settings, samples=12), str(faces), run)
    assert find_uploaded(url, run) == 12
    assert not list((run / ".upload").iterdir())
    with open_run(other, nano(**settings, samples=20), "auto") as folder:
        assert folder.resumes_at == 12
    read_meta(other / "checkpoints" / f"{12:012d}" / "bundle")
    for place in (run, other):
        run_training(nano(**settings, samples=20), str(faces), place, resume="must")
    for kind in ("raw", "ema"):
        mine, theirs = (load_file(p / "bundle" / f"{kind}.safetensors") for p in (run, other))
        assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


def test_what_was_uploaded_counts_as_the_run(
    url: str, tmp_path: Path, nano: Callable[..., Any]
) -> None:
    uploader = Uploader(url, tmp_path / "one" / "run")
    uploader.put(checkpoint_of(tmp_path / "one" / "run", 8))
    uploader.close()
    config = nano(checkpoint__upload=url)
    with (
        pytest.raises(UserError, match="already holds run run, at sample 8"),
        open_run(tmp_path / "other" / "run", config, "never"),
    ):
        pass
    # Another run's uploads are none of this one's business.
    with open_run(tmp_path / "other" / "another", config, "never") as folder:
        assert folder.resumes_at is None


def test_a_damaged_upload_falls_back_to_the_previous_one(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "one" / "run"
    uploader = Uploader(url, run)
    for samples in (8, 16, 24, 32):
        uploader.put(checkpoint_of(run, samples))
        while uploader._next is not None:
            time.sleep(0.01)
    uploader.close()
    store = open_store(f"{url}/run")
    store.delete(f"{24:012d}/bundle/raw.safetensors")
    # Not whole: its record is the last thing to arrive.
    store.delete(f"{32:012d}/checkpoint.json")
    record = json.loads(store.read(f"{16:012d}/checkpoint.json"))
    assert list(record["files"]) == ["bundle/bundle.json", "bundle/raw.safetensors"]
    record["files"]["bundle/../../../../stray"] = record["files"]["bundle/raw.safetensors"]
    store.write_atomic(f"{16:012d}/checkpoint.json", json.dumps(record).encode())
    other = tmp_path / "other" / "run"
    other.mkdir(parents=True)
    assert fetch_uploaded(url, other) == 8
    assert caplog.text.count("cannot be downloaded") == 2
    assert json.loads((other / "config.json").read_text()) == {"seed": 8}
    assert [p.name for p in (other / "checkpoints").iterdir()] == [f"{8:012d}"]
    assert not list(tmp_path.rglob("stray"))


def test_nothing_uploaded_is_a_new_run(url: str, tmp_path: Path) -> None:
    assert find_uploaded(url, tmp_path) is None
    assert fetch_uploaded(url, tmp_path) is None


def test_an_unresponsive_store_does_not_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, answer = tmp_path / "run", threading.Event()
    uploader = Uploader(str(tmp_path / "uploads"), run, stuck_s=0.2)
    monkeypatch.setattr(uploader._store, "publish", lambda *_: answer.wait(60))
    uploader.put(checkpoint_of(run, 8))
    while uploader._next is not None:
        time.sleep(0.01)
    for samples in (16, 24):
        # keep_last=1 prunes the one being copied; its second link stays.
        uploader.put(checkpoint_of(run, samples))
    with caplog.at_level(logging.WARNING):
        uploader.close()
    assert f"checkpoint {16:012d} is not uploaded" in caplog.text
    assert "upload of the last checkpoint" in caplog.text
    answer.set()
    uploader._thread.join(10)
    assert not uploader._thread.is_alive()


def test_a_failing_store_only_loses_uploads(
    tmp_path: Path, faces: Path, nano: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "uploads").mkdir()
    # A file where the run's folder would be.
    (tmp_path / "uploads" / "run").mkdir()
    (tmp_path / "uploads" / "run" / f"{8:012d}").write_text("")
    settings = {"samples": 12, "checkpoint__every_samples": 8}
    upload = str(tmp_path / "uploads")
    result = run_training(nano(**settings, checkpoint__upload=upload), str(faces), tmp_path / "run")
    assert result["samples_seen"] == 12
    assert f"upload of {8:012d} to" in caplog.text
    assert find_uploaded(upload, tmp_path / "run") == 12
