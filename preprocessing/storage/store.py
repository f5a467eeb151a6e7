"""One interface to a local folder or an fsspec URL: ranges, listings, atomic writes."""

import os
from pathlib import Path
from typing import Protocol

from preprocessing.errors import UserError
from preprocessing.paths import user_path
from preprocessing.retry import StoreFullError
from preprocessing.storage.fsspec_store import FsspecStore
from preprocessing.storage.local_store import LocalStore

__all__ = ["FsspecStore", "LocalStore", "Store", "StoreFullError", "open_store"]


class Store(Protocol):
    """Files under one root, named by relative paths with forward slashes.

    Writes are atomic: a file appears complete under its final name when `write_atomic` or `publish`
    returns. Transient failures are retried; others raise OSError, `StoreFullError` where no space
    is left.
    """

    @property
    def url(self) -> str:
        """The root as a path or URL."""

    def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return bytes `start` to `end` (exclusive) of a file; the whole file without them."""

    def write_atomic(self, path: str, data: bytes) -> None:
        """Create or replace a file."""

    def publish(self, local: Path, path: str) -> None:
        """Move a finished local file to `path`, creating or replacing it."""

    def exists(self, path: str) -> bool:
        """Return whether a file exists."""

    def list(self, prefix: str = "") -> dict[str, int]:
        """Return the sizes of all files in the folder `prefix` and below, by name from the root."""

    def delete(self, path: str) -> None:
        """Remove a file if it exists."""

    def scratch(self) -> Path:
        """Return a local folder for files to `publish`, on the same disk where possible.

        Name them by `unfinished.unfinished_name`, so that `sweep` recognises them.
        """

    def sweep(self) -> None:
        """Remove unfinished files of killed processes."""


def open_store(url: str | os.PathLike[str]) -> Store:
    """Return the store for a local folder or an fsspec URL (``s3://bucket/folder``).

    Nothing is created until something is written.

    Raises:
        UserError: no filesystem is installed for the URL's scheme, or the path is an existing file.
    """
    name = os.fspath(url)
    if "://" in name and not name.startswith("file://"):
        return FsspecStore(name)
    path = user_path(name.removeprefix("file://")).absolute()
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file, not a folder", "give a folder")
    return LocalStore(path)
