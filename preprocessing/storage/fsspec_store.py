"""The store on any fsspec filesystem."""

import contextlib
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.asyn import AsyncFileSystem

from preprocessing.errors import UserError
from preprocessing.retry import reraise_when_full, retry
from preprocessing.storage.unfinished import UNFINISHED, unfinished_name

# Object stores write objects atomically; other filesystems rename atomically.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "memory"}


class FsspecStore:
    """Any fsspec filesystem, with retries of transient failures."""

    def __init__(self, url: str, filesystem: Any = None) -> None:
        self._url = url.rstrip("/")
        self._protocol = url.split("://", 1)[0]
        self._filesystem = filesystem

    def __reduce__(self) -> tuple[type["FsspecStore"], tuple[str, Any]]:
        """Connect again in another process."""
        return (type(self), (self._url, None))

    @property
    def url(self) -> str:
        """The URL of the root."""
        return self._url

    @cached_property
    def filesystem(self) -> Any:
        """The connected filesystem; raises UserError where none is installed for the scheme."""
        if self._filesystem is not None:
            return self._filesystem
        import fsspec

        try:
            return fsspec.core.url_to_fs(self._url, use_listings_cache=False)[0]
        except (ImportError, ValueError) as error:
            raise UserError(
                f"cannot open {self._url}: {error}", f"install fsspec's {self._protocol} support"
            ) from error

    @cached_property
    def root(self) -> str:
        """The root in the filesystem's notation, without scheme."""
        return str(self.filesystem._strip_protocol(self._url)).rstrip("/")

    def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return a range of a file's bytes; see `storage.Store`."""
        return retry(
            lambda: bytes(self.filesystem.cat_file(self._full(path), start=start, end=end)),
            f"{self.url}/{path}",
        )

    def write_atomic(self, path: str, data: bytes) -> None:
        """Put one object, or write and rename; see `storage.Store`."""

        def put(target: str) -> None:
            if not self._is_object_store:
                self.filesystem.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
            with self.filesystem.open(
                target, "wb", block_size=max(2**23, len(data) // 9000)
            ) as stream:
                stream.write(data)

        self._put(path, put)

    def publish(self, local: Path, path: str) -> None:
        """Upload a finished file, then remove the local one; see `storage.Store`."""

        def put(target: str) -> None:
            if not self._is_object_store:
                self.filesystem.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
            self.filesystem.put_file(str(local), target)

        self._put(path, put)
        local.unlink(missing_ok=True)

    def exists(self, path: str) -> bool:
        """Return whether a file exists."""
        try:
            # fsspec's own `isfile` returns False for every error.
            return bool(retry(lambda: self._info(path), f"{self.url}/{path}")["type"] == "file")
        except FileNotFoundError:
            return False

    def list(self, prefix: str = "") -> dict[str, int]:
        """Return files below `prefix` with sizes; see `storage.Store`."""
        found = find_all(self.filesystem, self._full(prefix).rstrip("/"))
        skip = len(self.root) + 1
        return {
            str(name)[skip:]: int(info["size"])
            for name, info in sorted(found.items())
            if UNFINISHED not in str(name)
        }

    def delete(self, path: str) -> None:
        """Remove a file if it exists."""
        with contextlib.suppress(FileNotFoundError):
            # Not `rm`, for which S3 demands checksums that some stores refuse.
            retry(lambda: self.filesystem.rm_file(self._full(path)), f"{self.url}/{path}")

    def scratch(self) -> Path:
        """Return a temporary folder of this process."""
        import tempfile

        folder = Path(tempfile.gettempdir()) / f"xnemo-{os.getuid()}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def sweep(self) -> None:
        """Do nothing: an object store never shows unfinished objects."""

    @property
    def _is_object_store(self) -> bool:
        return self._protocol in _OBJECT_STORES

    def _info(self, path: str) -> dict[str, Any]:
        self.filesystem.invalidate_cache()
        found: dict[str, Any] = self.filesystem.info(self._full(path))
        return found

    def _full(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root

    def _put(self, path: str, put: Callable[[str], None]) -> None:
        target, url = self._full(path), f"{self.url}/{path}"
        with reraise_when_full(path, self.url):
            if self._is_object_store:
                retry(lambda: put(target), url)
                return
            folder, _, name = target.rpartition("/")
            temporary = f"{folder}/{unfinished_name()}-{name}"
            retry(lambda: put(temporary), url)
            retry(lambda: self.filesystem.mv(temporary, target), url)


def find_all(filesystem: Any, folder: str) -> dict[str, dict[str, Any]]:
    """Return all files in a folder of a filesystem and below, by path; none where it is missing.

    fsspec's own search leaves out folders it fails to list unless told to raise. Filesystems with a
    search of their own (s3fs) raise, and do not know the option.
    """
    if isinstance(filesystem, AsyncFileSystem):
        walks = type(filesystem)._find is AsyncFileSystem._find
    else:
        walks = type(filesystem).find is AbstractFileSystem.find
    options = {"on_error": "raise"} if walks else {}

    def find() -> dict[str, dict[str, Any]]:
        filesystem.invalidate_cache()
        found: dict[str, dict[str, Any]] = filesystem.find(folder, detail=True, **options)
        return found

    try:
        return retry(find, filesystem.unstrip_protocol(folder))
    except FileNotFoundError:
        return {}
