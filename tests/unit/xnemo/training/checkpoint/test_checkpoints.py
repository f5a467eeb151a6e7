"""Checkpoints: atomic, verified before use, pruned except the best."""

import json
import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from preprocessing.errors import UserError
from xnemo.training.checkpoint import integrity
from xnemo.training.checkpoint.store import CheckpointStore
from xnemo.training.config import CheckpointConfig
from xnemo.training.engines.world import World

ALONE = World(0, 1, torch.device("cpu"))


def open_store(root: Path, **config: object) -> CheckpointStore:
    return CheckpointStore(root, CheckpointConfig(**config), ALONE)  # type: ignore[arg-type]


def fill(folder: Path) -> None:
    (folder / "bundle").mkdir()
    (folder / "bundle" / "weights").write_bytes(b"0123456789" * 100)


def names(root: Path) -> list[str]:
    return sorted(p.name for p in (root / "checkpoints").iterdir())


def test_the_newest_checkpoint_is_found(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    assert store.latest() is None
    for samples in (4, 8):
        store.save(samples, {"note": samples}, fill)
    found = store.latest()
    assert found is not None
    assert (found.samples_seen, found.record["note"]) == (8, 8)


@pytest.mark.parametrize("harm", ["cut", "alter", "remove", "record"])
def test_a_damaged_checkpoint_falls_back_to_the_previous_one(
    tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(tmp_path)
    for samples in (4, 8):
        store.save(samples, {}, fill)
    last = tmp_path / "checkpoints" / f"{8:012d}"
    weights = last / "bundle" / "weights"
    if harm == "cut":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif harm == "alter":
        weights.write_bytes(b"x" + weights.read_bytes()[1:])
    elif harm == "remove":
        weights.unlink()
    else:
        (last / "checkpoint.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        found = store.latest()
    assert found is not None
    assert found.samples_seen == 4
    assert str(last) in caplog.text


def test_only_damaged_checkpoints_are_an_error(
    tmp_path: Path,
) -> None:
    store = open_store(tmp_path)
    for samples in (4, 8):
        store.save(samples, {}, fill)
    for folder in (tmp_path / "checkpoints").iterdir():
        (folder / "bundle" / "weights").write_bytes(b"")
    with pytest.raises(UserError, match=r"all 2 checkpoints in .* are damaged"):
        store.latest()


def test_a_full_disk_keeps_the_previous_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(tmp_path)
    store.save(4, {}, fill)

    def full(folder: Path) -> None:
        fill(folder)
        raise OSError(28, "No space left on device")

    with caplog.at_level(logging.ERROR):
        assert store.save(8, {}, full) is None
    assert "No space left" in caplog.text
    assert names(tmp_path) == [f"{4:012d}"]
    found = store.latest()
    assert found is not None
    assert found.samples_seen == 4


def test_too_little_space_is_noticed_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(tmp_path)
    store.save(4, {}, fill)
    monkeypatch.setattr(
        "xnemo.training.checkpoint.store.shutil.disk_usage",
        lambda path: type("U", (), {"free": 10}),
    )
    assert store.save(8, {}, lambda folder: pytest.fail("wrote")) is None
    assert "free on disk" in caplog.text


def test_an_interrupted_save_is_ignored_and_replaced(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.save(4, {}, fill)
    torn = tmp_path / "checkpoints" / f".{8:012d}.tmp"
    torn.mkdir()
    (torn / "half").write_text("x")
    found = store.latest()
    assert found is not None
    assert found.samples_seen == 4
    store.save(8, {}, fill)
    assert names(tmp_path) == [f"{4:012d}", f"{8:012d}"]
    assert not (tmp_path / "checkpoints" / f"{8:012d}" / "half").exists()


def test_old_checkpoints_are_deleted_except_the_best(tmp_path: Path) -> None:
    store = open_store(tmp_path, keep_last=2)
    for samples, loss in ((4, 3.0), (8, 1.0), (12, 2.0), (16, 2.5)):
        store.save(samples, {"validation_loss": loss}, fill)
    assert names(tmp_path) == [f"{n:012d}" for n in (8, 12, 16)]
    store = open_store(tmp_path, keep_last=1, keep_best=False)
    store.save(20, {"validation_loss": 9.0}, fill)
    assert names(tmp_path) == [f"{20:012d}"]


class OtherWorker(World):
    """Worker 1 of two, where the main worker has found a checkpoint at sample 4."""

    def sum(self, values: list[float]) -> list[float]:
        """Add what the main worker would: the checkpoint it found, or no flag."""
        return [4.0, 1.0] if len(values) == 2 else values


def other_worker(root: Path) -> CheckpointStore:
    return CheckpointStore(root, CheckpointConfig(), OtherWorker(1, 2, torch.device("cpu")))


def test_a_worker_that_never_sees_the_checkpoint_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to start from fresh weights, in silence."""
    monkeypatch.setattr("xnemo.training.checkpoint.store._VISIBLE_S", 0.1)
    with pytest.raises(UserError, match="not every worker sees the checkpoint"):
        other_worker(tmp_path).latest()


def test_a_worker_waits_for_storage_that_shows_the_checkpoint_later(tmp_path: Path) -> None:
    open_store(tmp_path / "main").save(4, {}, fill)
    (tmp_path / "here").mkdir()

    def appear() -> None:
        (tmp_path / "main" / "checkpoints").rename(tmp_path / "here" / "checkpoints")

    later = threading.Timer(0.3, appear)
    later.start()
    found = other_worker(tmp_path / "here").latest()
    later.join()
    assert found is not None
    assert found.samples_seen == 4


@pytest.mark.parametrize("shards", [True, False])
def test_resuming_hashes_each_file_once(
    short_run: Path,
    faces: Path,
    nano: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shards: bool,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(short_run, run)
    newest = max((run / "checkpoints").iterdir())
    if not shards:
        # Another number of workers: optimiser and averages come from the bundle.
        record = json.loads((newest / "checkpoint.json").read_text())
        (newest / "checkpoint.json").write_text(json.dumps({**record, "engine_layout": "other"}))
    hashed: list[Path] = []
    facts = integrity.file_facts

    def count(path: Path) -> dict[str, Any]:
        hashed.append(path)
        return facts(path)

    monkeypatch.setattr(integrity, "file_facts", count)
    from xnemo.training.setup import build_train_state

    found = CheckpointStore(run, CheckpointConfig(), ALONE).latest()
    build_train_state(nano(samples=16), [str(faces)], ALONE, found)
    assert len(hashed) == len(set(hashed)) > 2
