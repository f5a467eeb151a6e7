"""The log that is always written: one JSON object per line."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xnemo.training.monitor.appended_file import AppendedFile


class RunLog:
    """Append records to a file; a run that resumes goes on in the same file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = AppendedFile(path)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record with the time; numbers that are not finite become null."""
        line = {"time": round(time.time(), 3), **record}
        self._file.append(json.dumps(_plain(line)).encode())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the records of a log, without torn lines and what a resumed run did over again."""
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


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
