"""Opens a source by path or URL and reports its size and version, with retries."""

import io
import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from preprocessing.retry import retry

_BLOCK = 2**22
_BLOCKS = 8


def open_location(location: str) -> str | BinaryIO:
    """Return what a decoder opens: the path itself, or a seekable file object for a URL.

    Transient failures of the store are retried, so that a busy server does not look like a damaged
    video.

    Raises:
        FileNotFoundError: there is no such object.
    """
    if not is_url(location):
        return location
    return io.BufferedReader(_RemoteFile(location), buffer_size=2**16)


def is_url(location: str) -> bool:
    """Return whether a location is an fsspec URL rather than a path on disk."""
    return "://" in location and not os.path.exists(location)


def location_status(location: str) -> tuple[int, str]:
    """Return the size in bytes of a file or object, and a stamp that changes with its content.

    (-1, "missing") where it does not exist or cannot be reached.
    """
    if not is_url(location):
        try:
            status = Path(location).stat()
        except OSError:
            return -1, "missing"
        return status.st_size, str(status.st_mtime_ns)
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(location)
        return object_status(retry(lambda: filesystem.info(path), location))
    except (OSError, ImportError, ValueError):
        return -1, "missing"


def object_status(info: Mapping[str, Any]) -> tuple[int, str]:
    """Return size and stamp, as `location_status`, from what fsspec reports of an object."""
    stamps = (info.get(name) for name in ("ETag", "etag", "LastModified", "mtime"))
    return int(str(info.get("size") or 0)), next((str(s) for s in stamps if s), "")


class _RemoteFile(io.RawIOBase):
    """Reads blocks of 4 MB and caches the latest few: at most 32 MB."""

    def __init__(self, url: str) -> None:
        import fsspec

        super().__init__()
        self._url = url
        self._filesystem, self._path = fsspec.core.url_to_fs(url, use_listings_cache=False)
        info: dict[str, Any] = retry(lambda: self._filesystem.info(self._path), url)
        self._size = int(info["size"])
        self._position = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position and return it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer up to the end of a block and return the bytes read; 0 at the end."""
        number, offset = divmod(self._position, _BLOCK)
        if self._position >= self._size:
            return 0
        data = self._block(number)[offset : offset + len(buffer)]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            start, end = number * _BLOCK, min((number + 1) * _BLOCK, self._size)
            self._blocks[number] = retry(
                lambda: bytes(self._filesystem.cat_file(self._path, start=start, end=end)),
                self._url,
            )
            if len(self._blocks) > _BLOCKS:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(number)
        return self._blocks[number]
