"""Checkpoints of a run: written atomically, verified before use."""

import json
import logging
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from preprocessing.errors import UserError
from xnemo.training.checkpoint.integrity import file_facts, find_damage, publish_folder
from xnemo.training.config import CheckpointConfig
from xnemo.training.engines.world import World

log = logging.getLogger(__name__)

RECORD = "checkpoint.json"
# Seconds that a worker waits to see a checkpoint that the main worker sees.
_VISIBLE_S = 60.0


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk: `bundle/`, `engine/` and the record `checkpoint.json`."""

    folder: Path
    record: dict[str, Any]

    @property
    def samples_seen(self) -> int:
        """Position in the run."""
        return int(self.record["samples_seen"])


class CheckpointStore:
    """The checkpoints in a run's folder. All methods are collective."""

    def __init__(self, run_dir: Path, config: CheckpointConfig, world: World) -> None:
        self._folder = run_dir / "checkpoints"
        self._config = config
        self._world = world
        #: Why the last save failed, if it failed on this worker.
        self.failure: Exception | None = None

    def save(
        self, samples_seen: int, record: Mapping[str, Any], write: Callable[[Path], None]
    ) -> Checkpoint | None:
        """Write a checkpoint on all workers and publish it by a rename.

        Args:
            samples_seen: position in the run, which names the checkpoint.
            record: plain data for checkpoint.json.
            write: called on all workers with the folder to fill.

        Returns:
            The checkpoint, or None if a worker failed to write, such as on a full disk.
        """
        name = f"{samples_seen:012d}"
        temporary = self._folder / f".{name}.tmp"
        failure: Exception | None = None
        try:
            if self._world.is_main:
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir(parents=True)
                self._require_space()
        except OSError as error:
            failure = error
        if not self._agree(failure):
            self._discard(temporary, samples_seen, failure)
            return None
        try:
            write(temporary)
        except (OSError, RuntimeError, SafetensorError, UserError) as error:
            # torch and safetensors raise their own errors on a full disk.
            failure = error
        if not self._agree(failure):
            self._discard(temporary, samples_seen, failure)
            return None
        if not self._world.is_main:
            return Checkpoint(self._folder / name, {**record, "samples_seen": samples_seen})
        written = self._publish(temporary, self._folder / name, samples_seen, record)
        self._prune()
        return written

    def latest(self) -> Checkpoint | None:
        """Return the newest undamaged checkpoint, as the main worker finds it; None without any.

        Raises:
            UserError: on all workers, if there are checkpoints and all are damaged.
        """
        found: Checkpoint | None = None
        total = 0
        if self._world.is_main:
            total = len(self._folders())
            for candidate in reversed(self._complete()):
                damage = find_damage(candidate.folder, candidate.record["files"])
                if damage is None:
                    found = candidate
                    break
                log.warning(
                    "checkpoint %s is damaged (%s); falling back to the previous one",
                    candidate.folder,
                    damage,
                )
        result = [float(found.samples_seen) if found else -1.0, float(total)]
        chosen, count = self._world.sum(result if self._world.is_main else [0.0, 0.0])
        if chosen >= 0:
            folder = self._folder / f"{int(chosen):012d}"
            found = found or self._wait_for(folder)
            if self._world.any(found is None):
                raise UserError(
                    f"not every worker sees the checkpoint {folder}",
                    "put the runs folder on storage that all nodes share, at the same path",
                )
            return found
        if count:
            raise UserError(
                f"all {count:.0f} checkpoints in {self._folder} are damaged",
                "restore one from a copy, or remove that folder to start over",
            )
        return None

    def _wait_for(self, folder: Path) -> Checkpoint | None:
        """Read a checkpoint that the main worker sees; shared storage may show it later here."""
        deadline = time.monotonic() + _VISIBLE_S
        while not (folder / RECORD).is_file() and time.monotonic() < deadline:
            time.sleep(0.5)
        return self._read(folder)

    def _agree(self, failure: Exception | None) -> bool:
        return not self._world.any(failure is not None)

    def _discard(self, temporary: Path, samples_seen: int, failure: Exception | None) -> None:
        self.failure = failure
        if failure is not None:
            log.error(
                "cannot write the checkpoint at sample %d: %s; training continues with the "
                "previous checkpoint",
                samples_seen,
                failure,
            )
        self._world.barrier()
        if self._world.is_main:
            shutil.rmtree(temporary, ignore_errors=True)

    def _require_space(self) -> None:
        """Raise OSError if the disk has no space for a checkpoint of the last one's size."""
        complete = self._complete()
        if not complete:
            return
        need = sum(facts["bytes"] for facts in complete[-1].record["files"].values())
        free = shutil.disk_usage(self._folder).free
        if free < 1.05 * need:
            raise OSError(
                f"{free / 1e9:.2f} GB free on disk, and a checkpoint takes {need / 1e9:.2f} GB"
            )

    def _publish(
        self, temporary: Path, folder: Path, samples_seen: int, record: Mapping[str, Any]
    ) -> Checkpoint | None:
        try:
            files = {
                path.relative_to(temporary).as_posix(): file_facts(path)
                for path in sorted(temporary.rglob("*"))
                if path.is_file()
            }
            content = {**record, "samples_seen": samples_seen, "files": files}
            (temporary / RECORD).write_text(json.dumps(content, indent=1, sort_keys=True))
            publish_folder(temporary, folder)
        except OSError as error:
            self.failure = error
            log.error("cannot publish the checkpoint at sample %d: %s", samples_seen, error)
            shutil.rmtree(temporary, ignore_errors=True)
            return None
        return Checkpoint(folder, content)

    def _complete(self) -> list[Checkpoint]:
        """Return readable checkpoints, oldest first."""
        return [found for folder in self._folders() if (found := self._read(folder)) is not None]

    def _folders(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return sorted(p for p in self._folder.iterdir() if p.is_dir() and p.name.isdigit())

    def _read(self, folder: Path) -> Checkpoint | None:
        try:
            record = json.loads((folder / RECORD).read_text())
            record["files"], record["samples_seen"]
        except (OSError, ValueError, KeyError, TypeError):
            log.warning("checkpoint %s has no readable record; skipping it", folder)
            return None
        return Checkpoint(folder, record)

    def _prune(self) -> None:
        """Delete all but the newest and best checkpoints, each hidden by a rename first."""
        complete = self._complete()
        keep = {c.folder for c in complete[-self._config.keep_last :]}
        validated = [c for c in complete if c.record.get("validation_loss") is not None]
        if self._config.keep_best and validated:
            keep.add(min(validated, key=lambda c: c.record["validation_loss"]).folder)
        for checkpoint in complete:
            if checkpoint.folder not in keep:
                hidden = self._folder / f".{checkpoint.folder.name}.{uuid.uuid4().hex[:8]}.old"
                checkpoint.folder.rename(hidden)
                shutil.rmtree(hidden, ignore_errors=True)


def portable_record(checkpoint: Checkpoint) -> str:
    """Return a checkpoint's record as JSON, with the bundle's files only."""
    files = checkpoint.record["files"]
    kept = {name: facts for name, facts in files.items() if name.startswith("bundle/")}
    return json.dumps({**checkpoint.record, "engine_layout": None, "files": kept}, sort_keys=True)
