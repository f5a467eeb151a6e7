"""Send what a store lacks of a journal, a batch at a time, remembering each success."""

from itertools import groupby
from pathlib import Path

from pipelines.tracking import journal
from pipelines.tracking.progress import Progress, load_progress, save_progress
from pipelines.tracking.store import Refused, TrackingStore

# Entries read at once; bounds memory however long a server was away.
_BATCH = 500


class Delivery:
    """One journal on its way to one store."""

    def __init__(self, run_dir: Path, uri: str) -> None:
        """Prepare to send; nothing is contacted yet."""
        self.run_dir = run_dir
        self.uri = uri
        self.progress: Progress = load_progress(run_dir, uri)
        self._store = TrackingStore(uri, run_dir)
        # Where in the file the next entries begin: a long journal is not read over and over.
        self._offset = 0

    def send_batch(self) -> int:
        """Send the next entries and return how many there were; 0 means that nothing is missing.

        Raises:
            Exception: the store did not answer; call again later to go on from the same entry.
        """
        entries = []
        offset = self._offset
        for entry, end in journal.read_from(self.run_dir, offset):
            offset = end
            if entry["seq"] >= self.progress.next_seq:
                entries.append(entry)
                if len(entries) == _BATCH:
                    break
        for _, group in groupby(entries, key=lambda entry: entry["kind"]):
            self._send(list(group))
        self._offset = offset
        return len(entries)

    def _send(self, group: list[journal.Entry]) -> None:
        try:
            self._store.send(group)
        except Refused as refusal:
            if len(group) > 1:
                # One bad entry must not cost its neighbours.
                for entry in group:
                    self._send([entry])
                return
            self.progress.refused += 1
            self.progress.refusal = str(refusal)
        self.progress.next_seq = group[-1]["seq"] + 1
        self.progress.run_id = self._store.run_id or self.progress.run_id
        save_progress(self.run_dir, self.uri, self.progress)
