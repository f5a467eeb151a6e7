"""The log of a run: one JSON object per line, in a file that is only appended to."""

import errno
import json
import logging
import math
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class AppendOnlyFile:
    """A file of lines, each written completely or not at all, also on a full disk.

    A line that cannot be written is dropped. The first failure in a row is logged, and training
    continues.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file; an incomplete last line is removed."""
        self._path = path
        # Unbuffered, so that no part of a dropped line is written later.
        self._file = path.open("ab+", buffering=0)
        self._remove_incomplete_line()
        self._failing = False

    def append(self, line: bytes) -> bool:
        """Write a line and a newline; return whether it was written."""
        begin = os.fstat(self._file.fileno()).st_size
        whole = line + b"\n"
        try:
            if self._file.write(whole) != len(whole):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(begin)
            if not self._failing:
                log.error("%s cannot be written (%s); dropping lines until it can", self._path,
                          error.strerror)  # fmt: skip
            self._failing = True
            return False
        self._failing = False
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _remove_incomplete_line(self) -> None:
        """Truncate the file after its last newline, in case the writer was killed."""
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


class RunLog:
    """Append records to the log of a run; a resumed run appends to the same file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = AppendOnlyFile(path)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record with the Unix time; non-finite numbers become null."""
        line = {"time": round(time.time(), 3), **record}
        self._file.append(json.dumps(_plain(line)).encode())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the records of a log, without incomplete lines and steps repeated after a resume."""
    records: list[dict[str, Any]] = []
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record.get("event") == "resumed":
            seen = record["samples_seen"]
            records = [r for r in records if r.get("samples_seen", 0) <= seen]
        records.append(record)
    return records


def _plain(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
