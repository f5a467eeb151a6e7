"""Copy finished checkpoints to a store without holding up training."""

import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from preprocessing.storage import open_store
from preprocessing.unfinished import unfinished_name

log = logging.getLogger(__name__)


class Uploader:
    """One background thread that copies bundles to an fsspec URL, newest last.

    An object store has no rename of folders, so `bundle.json` goes last: a bundle that has one is
    whole. A failed copy is logged and the next one tried; the local checkpoint is not touched.
    """

    def __init__(self, url: str) -> None:
        self._store = open_store(url)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="upload")

    def put(self, bundle: Path, name: str) -> None:
        """Copy a bundle's files to `<url>/<name>/` in the background."""
        scratch = self._store.scratch()
        waiting = []
        for path in sorted(bundle.iterdir(), key=lambda path: path.name == "bundle.json"):
            # A second link outlives the pruning of the checkpoint.
            link = scratch / unfinished_name()
            try:
                os.link(path, link)
            except OSError:
                shutil.copyfile(path, link)
            waiting.append((link, f"{name}/{path.name}"))
        self._pool.submit(self._copy, waiting, name)

    def close(self) -> None:
        """Wait for the copies under way."""
        self._pool.shutdown(wait=True)

    def _copy(self, waiting: list[tuple[Path, str]], name: str) -> None:
        try:
            for link, target in waiting:
                self._store.publish(link, target)
        except Exception as error:
            log.error("upload of %s to %s failed: %s", name, self._store.url, error)
        finally:
            for link, _ in waiting:
                link.unlink(missing_ok=True)
