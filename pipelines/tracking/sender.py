"""Background thread that copies a run log to MLflow while the job runs."""

import logging
import threading
import time

from pipelines.tracking.delivery import Delivery
from preprocessing.errors import first_line
from xnemo.training.monitor.run_log import RunLog

_log = logging.getLogger(__name__)

# Seconds between two reads of the log, and the longest pause after failures.
_INTERVAL_S = 2.0
_MAX_PAUSE_S = 60.0


class Sender:
    """Sends a run log to a store in the background, however slow the store is.

    The job never waits for it, and memory does not grow: the log on disk is the queue. A store that
    comes back receives everything it missed.
    """

    def __init__(self, log: RunLog, uri: str, *, interval_s: float = _INTERVAL_S) -> None:
        """Start sending ``log`` to the store at ``uri``."""
        self._log = log
        self._delivery = Delivery(log.run_dir, uri)
        self._interval_s = interval_s
        self._closing = threading.Event()
        self._problem: str | None = None
        # A daemon: a socket that never answers must not keep the process alive.
        self._thread = threading.Thread(target=self._loop, name="tracking", daemon=True)
        self._thread.start()

    @property
    def uri(self) -> str:
        """URI of the store."""
        return self._delivery.uri

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run, once the store has answered."""
        return self._delivery.position.run_id

    @property
    def problem(self) -> str | None:
        """Error of the last attempt; None if it succeeded."""
        return self._problem

    @property
    def missing(self) -> int:
        """Number of records that the store has not received."""
        return self._log.length - self._delivery.position.next_seq

    def wait(self, timeout_s: float) -> bool:
        """Wait until the store has all records written so far; return whether it has."""
        deadline = time.monotonic() + timeout_s
        while self.missing and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.missing == 0

    def close(self, timeout_s: float = 60.0) -> bool:
        """Send what is left, stop, and return whether the store has all records.

        Waits at most ``timeout_s``; a store that fails gets one last attempt.
        """
        self._closing.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive() and self.missing == 0

    def _loop(self) -> None:
        pause = self._interval_s
        while True:
            closing = self._closing.is_set()
            try:
                while self._delivery.send_batch():
                    self._problem, pause = None, self._interval_s
            except Exception as error:
                # Whatever a tracking server or its client does, the job continues.
                pause = min(2 * pause, _MAX_PAUSE_S)
                self._report(error)
            if closing:
                return
            self._closing.wait(pause)

    def _report(self, error: Exception) -> None:
        """Log a problem once, not at every attempt."""
        problem = first_line(error)
        if self._problem is None:
            _log.warning(
                "MLflow at %s does not accept records (%s); training continues", self.uri, problem
            )
        self._problem = problem
