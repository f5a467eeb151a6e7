"""A local folder or any fsspec URL behind one small face: ranges, listings, atomic writes."""

import contextlib
import errno
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psutil

from preprocessing.errors import UserError

T = TypeVar("T")

# A name with this in it is being written; readers and listings never see it.
_UNFINISHED = ".unfinished-"
# Another machine's process may be alive; a day later it is not.
_FORGOTTEN_S = 86400.0
_ATTEMPTS = 6
_FIRST_PAUSE_S = 0.05
# Errors that a second attempt cannot change.
_PERMANENT = {
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR,
    errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT,
}  # fmt: skip
# No failure of a store at all, but of the program.
_WRONG_CALLS = (
    AssertionError, AttributeError, ImportError, LookupError, NotImplementedError, TypeError,
    UserError, ValueError,
)  # fmt: skip
_FULL = {errno.ENOSPC, errno.EDQUOT}
# Object stores publish an object whole or not at all; elsewhere a rename does.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "memory"}


class StoreFullError(OSError):
    """The place to write to has no space left; what was being written is not visible."""


class Store(Protocol):
    """Files under one root, named by relative paths with forward slashes.

    A file appears whole or not at all, under its final name, when `write_atomic` or `publish`
    returns. A failure that may pass is tried again; one that does not ends in OSError,
    `StoreFullError` where the place is full.
    """

    @property
    def url(self) -> str:
        """The root as a person would name it."""

    def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return bytes `start` to `end` (exclusive) of a file; the whole file without them."""

    def write_atomic(self, path: str, data: bytes) -> None:
        """Create or replace a file."""

    def publish(self, local: Path, path: str) -> None:
        """Move a finished local file to `path`, creating or replacing it."""

    def exists(self, path: str) -> bool:
        """Tell whether a file is there."""

    def list(self, prefix: str = "") -> dict[str, int]:
        """Return the sizes of all files in the folder `prefix` and below, by name from the root."""

    def delete(self, path: str) -> None:
        """Remove a file; nothing happens where there is none."""

    def scratch(self) -> Path:
        """Return a local folder for files on their way to `publish`, on the same disk if it can.

        Name them by `unfinished_name`, so that `sweep` knows them.
        """

    def sweep(self) -> None:
        """Remove what processes that were killed have left unfinished."""


def open_store(url: str | os.PathLike[str]) -> Store:
    """Return the store for a local folder or an fsspec URL (``s3://bucket/folder``).

    Nothing is created until something is written.

    Raises:
        UserError: no filesystem is installed for the URL's scheme, or the path is an existing file.
    """
    name = os.fspath(url)
    if "://" in name and not name.startswith("file://"):
        return FsspecStore(name)
    path = Path(name.removeprefix("file://")).expanduser().absolute()
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file, not a folder", "name a folder")
    return LocalStore(path)


class LocalStore:
    """A folder on this machine or on a disk that all machines mount at the same place."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def url(self) -> str:
        """The absolute path."""
        return str(self.root)

    def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return a range of a file's bytes; see `Store`."""
        with open(self.root / path, "rb") as stream:
            stream.seek(start or 0)
            return stream.read() if end is None else stream.read(end - (start or 0))

    def write_atomic(self, path: str, data: bytes) -> None:
        """Write beside the final name, flush to disk, rename; see `Store`."""
        target = self.root / path
        temporary = target.with_name(unfinished_name())
        with _told_when_full(path, self.url):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(temporary, "wb") as stream:
                    stream.write(data)
                    stream.flush()
                    os.fsync(stream.fileno())
                os.replace(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)

    def publish(self, local: Path, path: str) -> None:
        """Flush and rename; copies first where `local` lies on another disk; see `Store`."""
        target = self.root / path
        with _told_when_full(path, self.url):
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(local, "rb") as stream:
                os.fsync(stream.fileno())
            try:
                os.replace(local, target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                self.write_atomic(path, local.read_bytes())
                local.unlink()

    def exists(self, path: str) -> bool:
        """Tell whether a file is there."""
        return (self.root / path).is_file()

    def list(self, prefix: str = "") -> dict[str, int]:
        """Return files below `prefix` with sizes; see `Store`."""
        return dict(_walk(self.root / prefix, self.root))

    def delete(self, path: str) -> None:
        """Remove a file if it is there."""
        (self.root / path).unlink(missing_ok=True)

    def scratch(self) -> Path:
        """Return a folder inside the root, so that `publish` is a rename."""
        folder = self.root / "_work" / "scratch"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def sweep(self) -> None:
        """Remove unfinished files of dead processes of this machine, and of others after a day."""
        for path in self.root.rglob(f"{_UNFINISHED}*"):
            with contextlib.suppress(FileNotFoundError):
                if _is_abandoned(path):
                    path.unlink()


class FsspecStore:
    """Any filesystem that fsspec knows, with retries of what may pass."""

    def __init__(self, url: str, filesystem: Any = None) -> None:
        self._url = url.rstrip("/")
        self._protocol = url.split("://", 1)[0]
        self._filesystem = filesystem

    def __reduce__(self) -> tuple[type["FsspecStore"], tuple[str, Any]]:
        """Open the connection anew in another process."""
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
        """The root as the filesystem names it, without scheme."""
        return str(self.filesystem._strip_protocol(self._url)).rstrip("/")

    def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return a range of a file's bytes; see `Store`."""
        return retry(
            lambda: bytes(self.filesystem.cat_file(self._full(path), start=start, end=end))
        )

    def write_atomic(self, path: str, data: bytes) -> None:
        """Put one object, or write and rename where the filesystem has no objects; see `Store`."""

        def put(target: str) -> None:
            if not self._is_object_store:
                self.filesystem.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
            with self.filesystem.open(
                target, "wb", block_size=max(2**23, len(data) // 9000)
            ) as stream:
                stream.write(data)

        self._put(path, put)

    def publish(self, local: Path, path: str) -> None:
        """Upload a finished file, then remove the local one; see `Store`."""

        def put(target: str) -> None:
            if not self._is_object_store:
                self.filesystem.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
            self.filesystem.put_file(str(local), target)

        self._put(path, put)
        local.unlink(missing_ok=True)

    def exists(self, path: str) -> bool:
        """Tell whether a file is there."""
        try:
            # fsspec's own `isfile` takes every error for "no".
            return bool(retry(lambda: self._info(path))["type"] == "file")
        except FileNotFoundError:
            return False

    def list(self, prefix: str = "") -> dict[str, int]:
        """Return files below `prefix` with sizes; see `Store`."""
        found = find_all(self.filesystem, self._full(prefix).rstrip("/"))
        skip = len(self.root) + 1
        return {
            str(name)[skip:]: int(info["size"])
            for name, info in sorted(found.items())
            if _UNFINISHED not in str(name)
        }

    def delete(self, path: str) -> None:
        """Remove a file if it is there."""
        with contextlib.suppress(FileNotFoundError):
            retry(lambda: self.filesystem.rm(self._full(path)))

    def scratch(self) -> Path:
        """Return a temporary folder of this process."""
        import tempfile

        folder = Path(tempfile.gettempdir()) / f"xnemo-{os.getuid()}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def sweep(self) -> None:
        """Do nothing: what an object store was never given whole, it does not show."""

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
        target = self._full(path)
        with _told_when_full(path, self.url):
            if self._is_object_store:
                retry(lambda: put(target))
                return
            folder, _, name = target.rpartition("/")
            temporary = f"{folder}/{unfinished_name()}-{name}"
            retry(lambda: put(temporary))
            retry(lambda: self.filesystem.mv(temporary, target))


def find_all(filesystem: Any, folder: str) -> dict[str, dict[str, Any]]:
    """Return all files in a folder of a filesystem and below, by path; none where it is missing.

    fsspec by itself leaves out what it fails to list; here that is an error after some attempts.
    """

    def find() -> dict[str, dict[str, Any]]:
        filesystem.invalidate_cache()
        found: dict[str, dict[str, Any]] = filesystem.find(folder, detail=True, on_error="raise")
        return found

    try:
        return retry(find)
    except FileNotFoundError:
        return {}


def unfinished_name() -> str:
    """Return a new name for a file that is being written; it says by whom."""
    return f"{_UNFINISHED}{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"


def _is_abandoned(path: Path) -> bool:
    host, _, rest = path.name.removeprefix(_UNFINISHED).rpartition("-")[0].rpartition("-")
    if host == socket.gethostname() and rest.isdigit():
        return not psutil.pid_exists(int(rest))
    return time.time() - path.stat().st_mtime > _FORGOTTEN_S


def retry(action: Callable[[], T]) -> T:
    """Run an action again, with a growing pause, after failures that may pass; raise others.

    What does not pass is raised as it is where it is an OSError, else as one.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return action()
        except _WRONG_CALLS:
            raise
        except OSError as error:
            if error.errno in _PERMANENT or isinstance(error, FileNotFoundError | PermissionError):
                raise
            if attempt == _ATTEMPTS - 1:
                raise
        except Exception as error:
            # Clients of object stores raise classes of their own for a busy server.
            if attempt == _ATTEMPTS - 1:
                raise OSError(f"{type(error).__name__}: {error}") from error
        time.sleep(_FIRST_PAUSE_S * 2**attempt)
    raise AssertionError("unreachable")


@contextlib.contextmanager
def _told_when_full(path: str, root: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL and not isinstance(error, StoreFullError):
            raise StoreFullError(error.errno, f"no space left in {root}", path) from error
        raise


def _walk(folder: Path, root: Path) -> Iterator[tuple[str, int]]:
    """Yield (name from the root, size) of all finished files, sorted; symlinks are followed."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir():
            yield from _walk(Path(entry.path), root)
        elif entry.is_file() and not entry.name.startswith(_UNFINISHED):
            yield os.path.relpath(entry.path, root), entry.stat().st_size
