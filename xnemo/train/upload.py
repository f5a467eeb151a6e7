"""Copy finished checkpoints to a store without holding up training."""

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from preprocessing.storage import open_store

log = logging.getLogger(__name__)


class Uploader:
    """One background thread that copies bundles to an fsspec URL, newest last.

    An object store has no rename of folders, so `bundle.json` goes last: a bundle that has one is
    whole. A failed copy is logged and the next one tried; the local checkpoint is not touched.
    """

    def __init__(self, url: str) -> None:
        self._store = open_store(url)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="upload")
        self._pending: list[Future[None]] = []

    def put(self, bundle: Path, name: str) -> None:
        """Copy a bundle's files to `<url>/<name>/` in the background."""
        # Opened now: an open file outlives the pruning of its checkpoint.
        files = sorted(bundle.iterdir(), key=lambda path: path.name == "bundle.json")
        opened = [(path.name, path.open("rb")) for path in files]

        def copy() -> None:
            try:
                for file_name, file in opened:
                    with file:
                        self._store.write_atomic(f"{name}/{file_name}", file.read())
            except Exception as error:
                log.error("upload of %s to %s failed: %s", name, self._store.url, error)

        self._pending.append(self._pool.submit(copy))

    def close(self) -> None:
        """Wait for the copies under way."""
        self._pool.shutdown(wait=True)
