"""Run log: `log.jsonl` in the run folder, append-only, one JSON object per line.

Every record has ``seq`` (0, 1, 2, ...), ``time`` (Unix time in seconds) and ``kind``; the methods
of :class:`RunLog` document the other fields. NaN and infinities, which JSON lacks, are strings.

One process writes a run log at a time; any number may read it.
"""

import errno
import json
import logging
import math
import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from preprocessing.errors import UserError

log = logging.getLogger(__name__)

#: Name of the file inside a run folder.
FILE = "log.jsonl"

# Kinds of records; readers skip unknown ones.
START, PARAMS, TAGS, METRICS = "start", "params", "tags", "metrics"
ARTIFACT, DATASET, MODEL, ALIAS = "artifact", "dataset", "model", "alias"
EVENT, END = "event", "end"

#: A line of the run log.
Record = dict[str, Any]

# Fields of a metrics record that are not measurements.
_NOT_MEASURED = ("seq", "time", "kind", "samples_seen")


class RunLog:
    """Writer of a run log.

    Each line is written completely or not at all, also on a full disk. A line that cannot be
    written is dropped with one logged error, because training must continue without its log.
    """

    def __init__(self, run_dir: Path) -> None:
        """Open or create the log in ``run_dir``; a line torn by a crash is cut off."""
        self.run_dir = run_dir
        self.path = run_dir / FILE
        run_dir.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        # Unbuffered: a dropped line must not be flushed later, in the middle of another one.
        self._file = self.path.open("ab+", buffering=0)
        self._failing = False
        self._cut_torn_line()
        self._next, self._last_kind = 0, ""
        #: Unique key of the run; None before its first start.
        self.key: str | None = None
        for record in read_records(run_dir):
            self._next, self._last_kind = record["seq"] + 1, record["kind"]
            self.key = self.key or record.get("key")

    @property
    def length(self) -> int:
        """Number of records."""
        return self._next

    @property
    def ended(self) -> bool:
        """Whether the last record is the end of the run."""
        return self._last_kind == END

    def start(self, *, name: str, experiment: str, parent: str | None = None) -> str:
        """Record that the run starts or resumes and return its key, which does not change.

        Args:
            name: name of the run.
            experiment: group of runs it belongs to.
            parent: key of the search that this run is a trial of.
        """
        self.key = self.key or uuid.uuid4().hex
        self._append(START, key=self.key, name=name, experiment=experiment, parent=parent)
        return self.key

    def params(self, values: Mapping[str, object]) -> None:
        """Record settings by dotted name."""
        self._append(PARAMS, values={name: str(value) for name, value in values.items()})

    def tags(self, values: Mapping[str, str]) -> None:
        """Record facts about the run, such as its git revision."""
        self._append(TAGS, values=dict(values))

    def metrics(
        self, samples_seen: int, values: Mapping[str, float], at: float | None = None
    ) -> None:
        """Record measurements after ``samples_seen`` samples; ``at`` is their time if not now."""
        numbers = {n: float(v) for n, v in values.items() if n not in _NOT_MEASURED}
        self._append(METRICS, at, samples_seen=samples_seen, **numbers)

    def event(self, record: Mapping[str, Any]) -> None:
        """Record an event of training: its name is ``event``, its position ``samples_seen``."""
        self._append(EVENT, record.get("time"), **record)

    def artifact(self, file: Path, folder: str = "") -> None:
        """Record a file or folder inside the run folder; ``folder`` is its place in MLflow."""
        self._append(ARTIFACT, file=self._relative(file), folder=folder)

    def dataset(self, *, name: str, digest: str, source: str, filter: str, clips: int) -> None:
        """Record the training data: digest of its index and the filter over it."""
        self._append(DATASET, name=name, digest=digest, source=source, filter=filter, clips=clips)

    def model(self, folder: Path, name: str) -> None:
        """Record a bundle inside the run folder that becomes a version of model ``name``."""
        self._append(MODEL, file=self._relative(folder), name=name)

    def alias(self, name: str) -> None:
        """Record a name that the run's version of its model takes over from another version."""
        self._append(ALIAS, name=name)

    def end(self, status: str) -> None:
        """Record how the run ended: FINISHED, FAILED or KILLED."""
        self._append(END, status=status)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    def _append(self, kind: str, at: float | None = None, /, **fields: Any) -> None:
        with self._lock:
            when = round(time.time() if at is None else at, 3)
            head = {"seq": self._next, "time": when, "kind": kind}
            record = {**head, **_plain(fields), **head}
            if self._write(json.dumps(record, default=str).encode() + b"\n"):
                self._next, self._last_kind = self._next + 1, kind

    def _write(self, line: bytes) -> bool:
        """Write a line and return whether it could be written."""
        begin = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(begin)
            if not self._failing:
                log.error("cannot write %s (%s); records are dropped", self.path, error.strerror)
            self._failing = True
            return False
        self._failing = False
        return True

    def _cut_torn_line(self) -> None:
        """Remove what follows the last newline: its writer was killed."""
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

    def _relative(self, path: Path) -> str:
        return path.resolve().relative_to(self.run_dir.resolve()).as_posix()


def read_log(run_dir: Path) -> list[Record]:
    """Return metrics and events of a run, with steps that a resumed run repeated only once.

    NaN and infinities are None.

    Raises:
        UserError: the folder has no run log.
    """
    records: list[Record] = []
    for record in read_records(run_dir):
        if record["kind"] not in (METRICS, EVENT):
            continue
        if record.get("event") == "resumed":
            seen = record["samples_seen"]
            records = [r for r in records if r["samples_seen"] <= seen]
        if record["kind"] == METRICS:
            numbers = {k: v if math.isfinite(v) else None for k, v in measurements(record).items()}
            record |= numbers
        records.append(record)
    return records


def measurements(record: Record) -> dict[str, float]:
    """Return the measurements of a metrics record by name, NaN and infinities included."""
    return {name: float(value) for name, value in record.items() if name not in _NOT_MEASURED}


def read_records(run_dir: Path) -> Iterator[Record]:
    """Yield all records of a run, leaving out a line that is still being written.

    Raises:
        UserError: the folder has no run log.
    """
    for record, _ in read_records_from(run_dir, 0):
        yield record


def read_records_from(run_dir: Path, offset: int) -> Iterator[tuple[Record, int]]:
    """Yield the records from a byte offset on, each with the offset of its end.

    Raises:
        UserError: the folder has no run log.
    """
    path = run_dir / FILE
    if not path.is_file():
        raise UserError(f"{run_dir} is not a run: it has no {FILE}", "give the folder of a run")
    with path.open("rb") as lines:
        lines.seek(offset)
        for line in lines:
            offset += len(line)
            if not line.endswith(b"\n"):
                return
            # A disk that lost power may leave anything; earlier versions wrote no kind.
            with suppress(ValueError, TypeError):
                record = json.loads(line)
                if "kind" in record:
                    yield record, offset


def run_key(run_dir: Path) -> str | None:
    """Return the key of a run; None for one that was never started with `RunLog.start`."""
    for record in read_records(run_dir):
        if record["kind"] == START:
            return str(record["key"])
    return None


def _plain(value: Any) -> Any:
    """Replace floats that are not finite by strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
