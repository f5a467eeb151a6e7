"""The folder of one run: who may write it, and where a run in it stands."""

import fcntl
import json
import logging
import os
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
from xnemo.training.config import TrainConfig
from xnemo.training.engines.world import World

log = logging.getLogger(__name__)

Resume = Literal["auto", "must", "never"]

# Settings without which the samples seen so far would not count.
_FIXED = ("network", "stage", "seed", "global_batch")

# Settings that change how a run is done and not what comes of it.
_FREE = ("checkpoint", "validation", "guards", "engine", "samples", "micro_batch", "log_every")


@dataclass(frozen=True)
class RunFolder:
    """A run's folder, held by this process."""

    # The folder.
    path: Path
    # Sample at which the run goes on; None for a new run.
    resumes_at: int | None
    # Whether the run has reached its length and its bundle is there.
    complete: bool

    @property
    def bundle(self) -> Path:
        """Where the bundle is, or will be."""
        return self.path / "bundle"

    def last_metrics(self) -> dict[str, Any]:
        """Return the metrics that the bundle was saved with."""
        meta = json.loads((self.bundle / "bundle.json").read_text())
        return {**meta["metrics"], "samples_seen": meta["samples_seen"]}


@contextmanager
def open_run(path: Path, config: TrainConfig, resume: Resume) -> Iterator[RunFolder]:
    """Hold a run's folder, making it where needed, and say where the run stands.

    Raises:
        UserError: another process trains this run, the folder cannot be written, or what is there
            does not suit ``resume`` or ``config``.
    """
    with open_folder(path) as folder:
        yield _look(folder, config, resume)


@contextmanager
def open_folder(path: Path) -> Iterator[Path]:
    """Hold a folder against other processes, making it where needed, and give its absolute path.

    Raises:
        UserError: another process holds it, or it cannot be written.
    """
    if path.parts[0].endswith(":"):
        raise UserError(
            f"{path} is a URL, and a run's folder is not",
            "give --runs-dir a folder that all nodes share, and checkpoint.upload=URL for copies",
        )
    path = path.absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}", "give another --runs-dir"
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"run {path.name} is being trained by another process",
                "wait for it, stop it, or give another --run name",
            ) from error
        yield path
    finally:
        os.close(lock)


def _look(path: Path, config: TrainConfig, resume: Resume) -> RunFolder:
    alone = World(0, 1, torch.device("cpu"))
    store = CheckpointStore(path, config.checkpoint, alone)
    checkpoint = store.latest()
    url = config.checkpoint.upload
    if checkpoint is None and url is not None:
        if resume == "never" and (seen := find_uploaded(url, path)) is not None:
            raise UserError(
                f"{url} already holds run {path.name}, at sample {seen}",
                "give another --run name, or resume it",
            )
        if resume != "never" and fetch_uploaded(url, path) is not None:
            checkpoint = store.latest()
    if resume == "never" and (checkpoint is not None or (path / "bundle").exists()):
        at = f", at sample {checkpoint.samples_seen}" if checkpoint is not None else ""
        raise UserError(f"{path} already holds a run{at}", "give another --run name, or resume it")
    if resume == "must" and checkpoint is None:
        raise UserError(f"{path} holds no sound checkpoint to resume from", "start it anew")
    if checkpoint is None:
        return RunFolder(path, None, False)
    _compare(path, config)
    there = (path / "bundle" / "bundle.json").is_file()
    complete = checkpoint.samples_seen >= config.samples and there
    return RunFolder(path, checkpoint.samples_seen, complete)


def _compare(path: Path, config: TrainConfig) -> None:
    """Refuse to go on with another network or sequence of samples; name what else has changed.

    Raises:
        UserError: a setting differs that decides what the run is.
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
                f"run {path.name} was started with {name}={old} and would go on with {new}",
                "give the old value, or another --run name with init_from to start from its bundle",
            )
        log.warning("run %s goes on with %s=%s; before it was %s", path.name, name, new, old)


def _first_difference(name: str, old: Any, new: Any) -> tuple[str, Any, Any]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                return _first_difference(f"{name}.{key}", old.get(key), new.get(key))
    return name, old, new
