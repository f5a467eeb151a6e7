"""The store in a local folder."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from preprocessing.retry import reraise_when_full
from preprocessing.storage.unfinished import UNFINISHED, is_abandoned, unfinished_name


class LocalStore:
    """A folder on this machine or on a disk that all machines mount at the same path."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def url(self) -> str:
        """The absolute path."""
        return str(self.root)

    def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return a range of a file's bytes; see `storage.Store`."""
        with open(self.root / path, "rb") as stream:
            stream.seek(start or 0)
            return stream.read() if end is None else stream.read(end - (start or 0))

    def write_atomic(self, path: str, data: bytes) -> None:
        """Write beside the final name, flush to disk, rename; see `storage.Store`."""
        target = self.root / path
        temporary = target.with_name(unfinished_name())
        with reraise_when_full(path, self.url):
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
        """Flush and rename, or copy from another disk; see `storage.Store`."""
        target = self.root / path
        with reraise_when_full(path, self.url):
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(local, "rb") as stream:
                os.fsync(stream.fileno())
            try:
                os.replace(local, target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                self._copy(local, target)
                local.unlink()

    def _copy(self, local: Path, target: Path) -> None:
        """Copy from another disk, then rename, so that the file appears complete."""
        temporary = target.with_name(unfinished_name())
        try:
            shutil.copyfile(local, temporary)
            with open(temporary, "rb") as stream:
                os.fsync(stream.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    def exists(self, path: str) -> bool:
        """Return whether a file exists."""
        return (self.root / path).is_file()

    def list(self, prefix: str = "") -> dict[str, int]:
        """Return files below `prefix` with sizes; see `storage.Store`."""
        return dict(_walk(self.root / prefix, self.root))

    def delete(self, path: str) -> None:
        """Remove a file if it exists."""
        (self.root / path).unlink(missing_ok=True)

    def scratch(self) -> Path:
        """Return a folder inside the root, so that `publish` is a rename."""
        folder = self.root / "_work" / "scratch"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def sweep(self) -> None:
        """Remove unfinished files of dead processes of this machine, and of others after a day."""
        for path in self.root.rglob(f"{UNFINISHED}*"):
            with contextlib.suppress(FileNotFoundError):
                if is_abandoned(path):
                    path.unlink()


def _walk(folder: Path, root: Path) -> Iterator[tuple[str, int]]:
    """Yield (name from the root, size) of all finished files, sorted; symlinks are followed."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir():
            yield from _walk(Path(entry.path), root)
        elif entry.is_file() and not entry.name.startswith(UNFINISHED):
            yield os.path.relpath(entry.path, root), entry.stat().st_size
