"""Copy finished checkpoints to a store without holding up training."""

import logging
import os
import shutil
import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from preprocessing.storage.store import Store, open_store
from xnemo.training.checkpoint.store import RECORD, Checkpoint, portable_record

log = logging.getLogger(__name__)

# The end of a run waits so long for a copy that makes no progress, in seconds.
_STUCK_S = 600.0


@dataclass
class _Waiting:
    """Files to copy, in order: from a local link to a name in the store."""

    name: str
    folder: Path
    files: list[tuple[Path, str]] = field(default_factory=list)


class Uploader:
    """One background thread that copies checkpoints' bundles to `<url>/<run>/<samples>/`.

    An object store has no rename of folders, so the record goes last: a checkpoint that has one is
    whole, and `xnemo.training.checkpoint.download` finds it. A failed copy is logged and the next
    one tried; the local checkpoint is not touched. A store slower than the checkpoints gets the
    newest: one that still waits when the next comes is passed over.
    """

    def __init__(self, url: str, run_dir: Path, *, stuck_s: float = _STUCK_S) -> None:
        """Prepare to copy; nothing is contacted yet.

        Raises:
            UserError: no filesystem is installed for the URL's scheme.
        """
        self._store = run_store(url, run_dir)
        # A scheme that nothing serves is better refused now than missed at every checkpoint.
        getattr(self._store, "filesystem", None)
        # On the checkpoints' own disk: a link costs nothing, where a copy would hold up training.
        self._links = run_dir / ".upload"
        shutil.rmtree(self._links, ignore_errors=True)
        self._stuck_s = stuck_s
        self._news = threading.Condition()
        self._next: _Waiting | None = None
        self._closing = False
        self._progress = 0
        # A daemon, because a store that never answers must not hold the program's end.
        self._thread = threading.Thread(target=self._loop, name="upload", daemon=True)
        self._thread.start()

    def put(self, checkpoint: Checkpoint) -> None:
        """Copy a checkpoint's bundle in the background."""
        try:
            waiting = self._link(checkpoint)
        except OSError as error:
            log.error("checkpoint %s will not be uploaded: %s", checkpoint.folder.name, error)
            return
        with self._news:
            passed_over, self._next = self._next, waiting
            self._news.notify()
        if passed_over is not None:
            shutil.rmtree(passed_over.folder, ignore_errors=True)
            log.warning("%s is slow; checkpoint %s is not uploaded", self._store.url,
                        passed_over.name)  # fmt: skip

    def close(self) -> None:
        """Wait for the copies under way, for as long as they make progress."""
        with self._news:
            self._closing = True
            self._news.notify()
        seen = -1
        while self._thread.is_alive() and seen != self._progress:
            seen = self._progress
            self._thread.join(self._stuck_s)
        if self._thread.is_alive():
            log.error(
                "%s has not taken the last checkpoint for %.0f s; it is whole in the run's folder",
                self._store.url,
                self._stuck_s,
            )

    def _link(self, checkpoint: Checkpoint) -> _Waiting:
        folder = self._links / uuid.uuid4().hex
        folder.mkdir(parents=True)
        name = checkpoint.folder.name
        waiting = _Waiting(name, folder)
        for path in sorted((checkpoint.folder / "bundle").iterdir()):
            # A second link outlives the pruning of the checkpoint.
            _link_or_copy(path, folder / path.name)
            waiting.files.append((folder / path.name, f"{name}/bundle/{path.name}"))
        (folder / RECORD).write_text(portable_record(checkpoint))
        waiting.files.append((folder / RECORD, f"{name}/{RECORD}"))
        return waiting

    def _loop(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._closing or self._next is not None)
                waiting, self._next = self._next, None
            if waiting is None:
                return
            self._copy(waiting)

    def _copy(self, waiting: _Waiting) -> None:
        try:
            for link, target in waiting.files:
                self._store.publish(link, target)
                self._progress += 1
        except Exception as error:
            log.error("upload of %s to %s failed: %s", waiting.name, self._store.url, error)
        finally:
            shutil.rmtree(waiting.folder, ignore_errors=True)


def run_store(url: str, run_dir: Path) -> Store:
    """Return the place of one run's checkpoints under an upload URL."""
    return open_store(f"{url.rstrip('/')}/{run_dir.absolute().name}")


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
