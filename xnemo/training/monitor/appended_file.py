"""A file that only grows by whole lines, and never stops who writes it."""

import errno
import logging
import os
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)


class AppendedFile:
    """Lines at the end of a file, each there whole or not at all, also on a full disk.

    A line that cannot be written is dropped, which is told once until one can be written again:
    training for days is worth more than a line about it.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or start one; a line torn by a crash is cut off."""
        self._path = path
        # Unbuffered: what was dropped must not come out later, in the middle of another line.
        self._file = path.open("ab+", buffering=0)
        self._cut_torn_line()
        self._complained = False

    def append(self, line: bytes) -> bool:
        """Write a line and its end; return whether it could be written."""
        begin = os.fstat(self._file.fileno()).st_size
        whole = line + b"\n"
        try:
            if self._file.write(whole) != len(whole):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(begin)
            if not self._complained:
                log.error("%s cannot be written (%s); lines are lost until it can", self._path,
                          error.strerror)  # fmt: skip
            self._complained = True
            return False
        self._complained = False
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _cut_torn_line(self) -> None:
        """Drop what follows the last newline: the writer died in the middle of it."""
        size = end = self._file.seek(0, os.SEEK_END)
        step = 4096
        while end > 0:
            begin = max(0, end - step)
            self._file.seek(begin)
            newline = (self._file.read(end - begin) or b"").rfind(b"\n")
            if newline >= 0:
                end = begin + newline + 1
                break
            end = begin
        if end < size:
            self._file.truncate(end)
        self._file.seek(0, os.SEEK_END)
