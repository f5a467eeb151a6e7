"""Upload of finished checkpoints in the background."""

import logging
import shutil
import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from preprocessing.storage.store import Store, open_store
from xnemo.training.checkpoint.integrity import link_or_copy
from xnemo.training.checkpoint.store import RECORD, Checkpoint, portable_record

log = logging.getLogger(__name__)

# Seconds that the end of a run waits for an upload without progress.
_STUCK_S = 600.0


@dataclass
class _Pending:
    """A checkpoint to upload: local links and names in the store, in order."""

    name: str
    folder: Path
    files: list[tuple[Path, str]] = field(default_factory=list)


class Uploader:
    """A background thread that uploads checkpoints' bundles to `<url>/<run>/<samples>/`.

    Object stores cannot rename folders, so the record is uploaded last and marks a checkpoint as
    complete. A failed upload is logged, and the next checkpoint is tried. If the store is slower
    than training, only the newest pending checkpoint is uploaded.
    """

    def __init__(self, url: str, run_dir: Path, *, stuck_s: float = _STUCK_S) -> None:
        """Start the thread, without contacting the store.

        Raises:
            UserError: no filesystem is installed for the URL's scheme.
        """
        self._store = run_store(url, run_dir)
        # Fail now if no filesystem is installed, not at every checkpoint.
        getattr(self._store, "filesystem", None)
        # Hard links on the checkpoints' disk: copies would delay training.
        self._links = run_dir / ".upload"
        shutil.rmtree(self._links, ignore_errors=True)
        self._stuck_s = stuck_s
        self._changed = threading.Condition()
        self._next: _Pending | None = None
        self._closing = False
        self._progress = 0
        # A daemon thread, so that an unresponsive store does not keep the process alive.
        self._thread = threading.Thread(target=self._loop, name="upload", daemon=True)
        self._thread.start()

    def put(self, checkpoint: Checkpoint) -> None:
        """Upload a checkpoint's bundle in the background."""
        try:
            pending = self._link(checkpoint)
        except OSError as error:
            log.error("checkpoint %s is not uploaded: %s", checkpoint.folder.name, error)
            return
        with self._changed:
            skipped, self._next = self._next, pending
            self._changed.notify()
        if skipped is not None:
            shutil.rmtree(skipped.folder, ignore_errors=True)
            log.warning("%s is slow: checkpoint %s is not uploaded", self._store.url,
                        skipped.name)  # fmt: skip

    def close(self) -> None:
        """Wait for pending uploads for as long as they make progress."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        seen = -1
        while self._thread.is_alive() and seen != self._progress:
            seen = self._progress
            self._thread.join(self._stuck_s)
        if self._thread.is_alive():
            log.error(
                "upload of the last checkpoint to %s made no progress for %.0f s; the local "
                "copy is complete",
                self._store.url,
                self._stuck_s,
            )

    def _link(self, checkpoint: Checkpoint) -> _Pending:
        folder = self._links / uuid.uuid4().hex
        folder.mkdir(parents=True)
        name = checkpoint.folder.name
        pending = _Pending(name, folder)
        for path in sorted((checkpoint.folder / "bundle").iterdir()):
            # The link survives the pruning of the checkpoint.
            link_or_copy(path, folder / path.name)
            pending.files.append((folder / path.name, f"{name}/bundle/{path.name}"))
        (folder / RECORD).write_text(portable_record(checkpoint))
        pending.files.append((folder / RECORD, f"{name}/{RECORD}"))
        return pending

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._next is not None)
                pending, self._next = self._next, None
            if pending is None:
                return
            self._upload(pending)

    def _upload(self, pending: _Pending) -> None:
        try:
            for link, target in pending.files:
                self._store.publish(link, target)
                self._progress += 1
        except Exception as error:
            log.error("upload of %s to %s failed: %s", pending.name, self._store.url, error)
        finally:
            shutil.rmtree(pending.folder, ignore_errors=True)


def run_store(url: str, run_dir: Path) -> Store:
    """Return the store of a run's checkpoints under an upload URL."""
    return open_store(f"{url.rstrip('/')}/{run_dir.absolute().name}")
