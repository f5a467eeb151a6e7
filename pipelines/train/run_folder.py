"""Run folder: its lock, and the position at which its run resumes."""

import fcntl
import json
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from preprocessing.errors import UserError
from xnemo.config import to_dict
from xnemo.training.checkpoint.download import fetch_uploaded, find_uploaded
from xnemo.training.checkpoint.store import CheckpointStore
from xnemo.training.checkpoint.upload import run_store
from xnemo.training.config import TrainConfig
from xnemo.training.engines.world import World

_log = logging.getLogger(__name__)

Resume = Literal["auto", "must", "never"]

# File that the process of a run locks.
_LOCK = ".lock"

# Settings that may not change: the samples seen so far would not count.
_FIXED = ("network", "stage", "seed", "global_batch")

# Settings that change how a run is executed, not its result.
_FREE = ("checkpoint", "validation", "guards", "engine", "samples", "micro_batch", "log_every")


@dataclass(frozen=True)
class RunFolder:
    """Run folder locked by this process."""

    # Absolute path.
    path: Path
    # Sample at which the run resumes; None for a new run.
    resumes_at: int | None
    # Whether the run has reached its length and its bundle exists.
    complete: bool

    @property
    def bundle(self) -> Path:
        """Folder of the bundle, which may not exist yet."""
        return self.path / "bundle"

    def last_metrics(self) -> dict[str, Any]:
        """Return the metrics saved in the bundle."""
        meta = json.loads((self.bundle / "bundle.json").read_text())
        return {**meta["metrics"], "samples_seen": meta["samples_seen"]}


@contextmanager
def open_run(path: Path, config: TrainConfig, resume: Resume) -> Iterator[RunFolder]:
    """Lock a run folder, creating it if needed, and find the position of its run.

    Raises:
        UserError: another process trains this run, the folder cannot be written, or its content
            contradicts ``resume`` or ``config``.
    """
    with open_folder(path) as folder:
        yield _inspect(folder, config, resume)


@contextmanager
def open_folder(path: Path) -> Iterator[Path]:
    """Lock a folder, creating it if needed, and return its absolute path.

    Raises:
        UserError: another process has locked it, or it cannot be written.
    """
    if path.parts[0].endswith(":"):
        raise UserError(
            f"the run folder {path} is a URL",
            "set --runs-dir to a folder that all nodes share, and checkpoint.upload=URL for copies",
        )
    path = path.absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path / _LOCK, os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}", "choose another --runs-dir"
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"run {path.name} is being trained by another process",
                "wait for it, stop it, or choose another --run name",
            ) from error
        except OSError as error:
            raise UserError(
                f"{path} cannot be locked ({error.strerror}), so two processes could train one run",
                "choose a --runs-dir on storage with file locks, such as NFS 4 or a local disk",
            ) from error
        yield path
    finally:
        os.close(lock)


def is_open(path: Path) -> bool:
    """Return whether a process has locked a folder with `open_folder`."""
    lock = os.open(path / _LOCK, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _inspect(path: Path, config: TrainConfig, resume: Resume) -> RunFolder:
    alone = World(0, 1, torch.device("cpu"))
    store = CheckpointStore(path, config.checkpoint, alone)
    checkpoint = store.latest()
    url = config.checkpoint.upload
    if url is not None:
        _check_upload(url, path)
    if checkpoint is None and url is not None:
        if resume == "never" and (seen := find_uploaded(url, path)) is not None:
            raise UserError(
                f"{url} already holds run {path.name}, at sample {seen}",
                "choose another --run name, or resume it",
            )
        if resume != "never" and fetch_uploaded(url, path) is not None:
            checkpoint = store.latest()
    if resume == "never" and (checkpoint is not None or (path / "bundle").exists()):
        at = f", at sample {checkpoint.samples_seen}" if checkpoint is not None else ""
        raise UserError(
            f"{path} already holds a run{at}", "choose another --run name, or resume it"
        )
    if resume == "must" and checkpoint is None:
        raise UserError(
            f"{path} has no valid checkpoint to resume from", "start it with --resume auto"
        )
    if checkpoint is None:
        return RunFolder(path, None, False)
    _compare(path, config)
    there = (path / "bundle" / "bundle.json").is_file()
    complete = checkpoint.samples_seen >= config.samples and there
    return RunFolder(path, checkpoint.samples_seen, complete)


def _check_upload(url: str, path: Path) -> None:
    """Refuse a store without the right to write, which uploads would only report hours later."""
    store, name = run_store(url, path), f".probe-{uuid.uuid4().hex}"
    store.write_atomic(name, b"")
    store.delete(name)


def _compare(path: Path, config: TrainConfig) -> None:
    """Compare the settings with those of the last start; log changes.

    Raises:
        UserError: a setting differs that may not change within a run.
    """
    try:
        before = json.loads((path / "config.json").read_text())
    except (OSError, ValueError):
        return
    now = to_dict(config)
    for section in now:
        if section in _FREE or section not in before or before[section] == now[section]:
            continue
        name, old, new = _first_difference(section, before[section], now[section])
        if section in _FIXED:
            raise UserError(
                f"run {path.name} was started with {name}={old} and cannot resume with {new}",
                "restore the old value, or start another --run with --init-from its bundle",
            )
        _log.warning("run %s resumes with %s=%s instead of %s", path.name, name, new, old)


def _first_difference(name: str, old: Any, new: Any) -> tuple[str, Any, Any]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                return _first_difference(f"{name}.{key}", old.get(key), new.get(key))
    return name, old, new
