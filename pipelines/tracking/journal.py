"""An append-only record of a run, one JSON object a line."""

import json
import math
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from preprocessing.errors import UserError
from xnemo.training.monitor.run_log import AppendOnlyFile

#: Name of the journal inside a run's folder.
FILE = "journal.jsonl"

# Kinds of entries; a reader skips those it does not know.
START, PARAMS, TAGS, METRICS = "start", "params", "tags", "metrics"
ARTIFACT, DATASET, MODEL = "artifact", "dataset", "model"
EVENT, END = "event", "end"

Entry = dict[str, Any]


class Journal:
    """The journal of one run. Appending is the only thing that training waits for.

    Every entry has ``seq`` (0, 1, 2, ...), ``time_ms`` (Unix time) and ``kind``; the methods below
    say what else. Numbers that JSON cannot write (NaN, infinities) are written as strings.

    One process writes a journal at a time; any number may read it.
    """

    def __init__(self, run_dir: Path) -> None:
        """Open the journal in ``run_dir``, or start one; a line torn by a crash is cut off."""
        self.run_dir = run_dir
        self.path = run_dir / FILE
        run_dir.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._file = AppendOnlyFile(self.path)
        self._next = sum(1 for _ in read(run_dir))

    @property
    def length(self) -> int:
        """How many entries have been written."""
        return self._next

    @property
    def ended(self) -> bool:
        """Whether the last entry says how the run ended."""
        entries = list(read(self.run_dir, max(0, self._next - 1)))
        return bool(entries) and entries[-1]["kind"] == END

    def start(self, *, name: str, experiment: str, parent: str | None = None) -> str:
        """Note that the run begins or goes on, and return its key, which stays the same.

        Args:
            name: what the run is called.
            experiment: the group of runs it belongs to.
            parent: key of the run that this one is a trial of.
        """
        key = run_key(self.run_dir) or uuid.uuid4().hex
        body = {"key": key, "name": name, "experiment": experiment, "parent": parent}
        self._append(START, body)
        return key

    def params(self, values: Mapping[str, Any]) -> None:
        """Note the settings, by dotted name."""
        self._append(PARAMS, {"values": {name: str(value) for name, value in values.items()}})

    def tags(self, values: Mapping[str, str]) -> None:
        """Note facts about the run, such as the commit it was made from."""
        self._append(TAGS, {"values": dict(values)})

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Note numbers measured after ``step`` samples."""
        self._append(METRICS, {"step": step, "values": {k: _plain(v) for k, v in values.items()}})

    def artifact(self, file: Path, folder: str = "") -> None:
        """Note a file or folder inside the run's folder that belongs to the record of the run."""
        self._append(ARTIFACT, {"file": self._relative(file), "folder": folder})

    def dataset(self, *, name: str, digest: str, source: str, filter: str, clips: int) -> None:
        """Note what was trained on: a digest of the index and the filter over it."""
        body = {"name": name, "digest": digest, "source": source, "filter": filter, "clips": clips}
        self._append(DATASET, body)

    def model(self, folder: Path, name: str) -> None:
        """Note a bundle inside the run's folder, to become a version of model ``name``."""
        self._append(MODEL, {"file": self._relative(folder), "name": name})

    def event(self, record: Mapping[str, Any]) -> None:
        """Note something that happened; MLflow has no place for it and skips it."""
        self._append(EVENT, {"record": json.loads(json.dumps(record, default=str))})

    def end(self, status: str) -> None:
        """Note how the run ended: FINISHED, FAILED or KILLED."""
        self._append(END, {"status": status})

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    def _append(self, kind: str, body: Entry) -> None:
        with self._lock:
            entry = {
                "seq": self._next,
                "time_ms": time.time_ns() // 1_000_000,
                "kind": kind,
                **body,
            }
            self._next += self._file.append(json.dumps(entry, allow_nan=False).encode())

    def _relative(self, path: Path) -> str:
        return path.resolve().relative_to(self.run_dir.resolve()).as_posix()


def read(run_dir: Path, start: int = 0) -> Iterator[Entry]:
    """Yield the entries of a run from number ``start``, leaving out a line still being written.

    Raises:
        UserError: the folder has no journal.
    """
    for number, (entry, _) in enumerate(read_from(run_dir, 0)):
        if number >= start:
            yield entry


def read_from(run_dir: Path, offset: int) -> Iterator[tuple[Entry, int]]:
    """Yield the entries from a byte offset on, each with the offset after it.

    Raises:
        UserError: the folder has no journal.
    """
    path = run_dir / FILE
    if not path.is_file():
        raise UserError(f"{run_dir} is no run: it has no {FILE}", "give the folder of a run")
    with path.open("rb") as lines:
        lines.seek(offset)
        for line in lines:
            if line.endswith(b"\n"):
                offset += len(line)
                yield json.loads(line), offset


def run_key(run_dir: Path) -> str | None:
    """Return the key of a run, or None for one that never started."""
    for entry in read(run_dir):
        if entry["kind"] == START:
            return str(entry["key"])
    return None


def _plain(value: float) -> float | str:
    number = float(value)
    return number if math.isfinite(number) else str(number)
