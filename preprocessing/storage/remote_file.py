"""A source in an object store as a file that a decoder can seek in, patient with the store."""

import io
import os
from collections import OrderedDict
from typing import Any, BinaryIO

from preprocessing.retry import retry

_BLOCK = 2**22
_BLOCKS = 8


def open_location(location: str) -> str | BinaryIO:
    """Return what a decoder should open: the path itself, or for a URL a file-like object.

    A call to the store that fails and may pass is made again, so that a busy server does not look
    like a damaged video. Raises FileNotFoundError where there is no such object.
    """
    if "://" not in location or os.path.exists(location):
        return location
    return io.BufferedReader(_RemoteFile(location), buffer_size=2**16)


class _RemoteFile(io.RawIOBase):
    """Reads by blocks of 4 MB, of which the latest few are kept: at most 32 MB."""

    def __init__(self, url: str) -> None:
        import fsspec

        super().__init__()
        self._filesystem, self._path = fsspec.core.url_to_fs(url, use_listings_cache=False)
        info: dict[str, Any] = retry(lambda: self._filesystem.info(self._path))
        self._size = int(info["size"])
        self._position = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it can be sought in."""
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
        """Fill the buffer as far as one block goes; 0 at the end."""
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
                lambda: bytes(self._filesystem.cat_file(self._path, start=start, end=end))
            )
            if len(self._blocks) > _BLOCKS:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(number)
        return self._blocks[number]
