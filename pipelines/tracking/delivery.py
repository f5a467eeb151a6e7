"""Delivery of a run log to one store, in batches, with the position saved after each."""

import json
import os
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from pipelines.tracking.store import Refused, TrackingStore
from xnemo.training.monitor.run_log import Record, read_records_from

#: File inside a run folder: position of each store, by URI.
FILE = "tracking.json"

# Records read at once; bounds memory however long a server was away.
_BATCH = 500


@dataclass
class Position:
    """How much of a run log one store has received."""

    # Number of the first record that it lacks.
    next_seq: int = 0
    # MLflow's id of the run there.
    run_id: str | None = None
    # Number of records that the store refused, and the last reason.
    refused: int = 0
    refusal: str | None = None


class Delivery:
    """Sends one run log to one store."""

    def __init__(self, run_dir: Path, uri: str) -> None:
        """Read the saved position; the store is not contacted yet."""
        self.run_dir = run_dir
        self.uri = uri
        self.position = Position(**_load(run_dir).get(uri, {}))
        self._store = TrackingStore(uri, run_dir)
        # Byte offset of the next records, so that a long log is read once.
        self._offset = 0

    def send_batch(self) -> int:
        """Send the next records and return their number; 0 if the store has all.

        Raises:
            Exception: the store did not answer; the next call continues at the same record.
        """
        records = []
        offset = self._offset
        for record, end in read_records_from(self.run_dir, offset):
            offset = end
            if record["seq"] >= self.position.next_seq:
                records.append(record)
                if len(records) == _BATCH:
                    break
        for _, group in groupby(records, key=lambda record: record["kind"]):
            self._send(list(group))
        self._offset = offset
        return len(records)

    def _send(self, group: list[Record]) -> None:
        try:
            self._store.send(group)
        except Refused as refusal:
            if len(group) > 1:
                # Only the bad record is lost, not the whole group.
                for record in group:
                    self._send([record])
                return
            self.position.refused += 1
            self.position.refusal = str(refusal)
        self.position.next_seq = group[-1]["seq"] + 1
        self.position.run_id = self._store.run_id or self.position.run_id
        self._save()

    def _save(self) -> None:
        positions = _load(self.run_dir) | {self.uri: asdict(self.position)}
        temporary = self.run_dir / f".{FILE}.{os.getpid()}"
        temporary.write_text(json.dumps(positions, indent=1, sort_keys=True))
        temporary.replace(self.run_dir / FILE)


def known_stores(run_dir: Path) -> list[str]:
    """Return the URIs of the stores that have received anything of a run."""
    return sorted(_load(run_dir))


def _load(run_dir: Path) -> dict[str, dict[str, Any]]:
    try:
        loaded = json.loads((run_dir / FILE).read_text())
    except (FileNotFoundError, ValueError):
        # Sending everything again is safe.
        return {}
    return loaded if isinstance(loaded, dict) else {}
