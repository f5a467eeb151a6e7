"""A thread that keeps MLflow up to date with a journal while training goes on."""

import logging
import threading
import time

from pipelines.tracking.delivery import Delivery
from pipelines.tracking.journal import Journal
from preprocessing.errors import first_line

log = logging.getLogger(__name__)

# Pause between looks at the journal, and the longest pause after failures, in seconds.
_INTERVAL_S = 2.0
_MAX_PAUSE_S = 60.0


class Sender:
    """Send a journal to a store in the background, however slow or dead the store is.

    Training never waits for it: the journal on disk is the queue, so no memory piles up, and
    a store that comes back gets everything it missed.
    """

    def __init__(self, journal: Journal, uri: str, *, interval_s: float = _INTERVAL_S) -> None:
        """Start sending ``journal`` to the store at ``uri``."""
        self._journal = journal
        self._delivery = Delivery(journal.run_dir, uri)
        self._interval_s = interval_s
        self._closing = threading.Event()
        self._problem: str | None = None
        # A daemon, because a socket that never answers must not hold the program's end.
        self._thread = threading.Thread(target=self._loop, name="tracking", daemon=True)
        self._thread.start()

    @property
    def uri(self) -> str:
        """The store that is sent to."""
        return self._delivery.uri

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run, once the store has answered."""
        return self._delivery.progress.run_id

    @property
    def problem(self) -> str | None:
        """Why the store did not take the last attempt; None when it did."""
        return self._problem

    @property
    def missing(self) -> int:
        """How many entries the store has not received."""
        return self._journal.length - self._delivery.progress.next_seq

    @property
    def refused(self) -> str | None:
        """An entry that the store will never take, if there was one."""
        return self._delivery.progress.refusal

    def close(self, timeout_s: float = 60.0) -> bool:
        """Send what is left and stop; return whether the store has everything.

        Waits ``timeout_s`` at most, and not at all beyond one last attempt for a store that fails.
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
                # Whatever a tracking server or its client does, training goes on.
                pause = min(2 * pause, _MAX_PAUSE_S)
                self._tell(error)
            if closing:
                return
            self._closing.wait(pause)

    def _tell(self, error: Exception) -> None:
        """Say once, not at every attempt, that the store is away."""
        problem = first_line(error)
        if self._problem is None:
            log.warning(
                "MLflow at %s does not take records (%s); training goes on", self.uri, problem
            )
        self._problem = problem


def wait_until_sent(sender: Sender, timeout_s: float) -> bool:
    """Wait until the store has every entry written so far; return whether it has."""
    deadline = time.monotonic() + timeout_s
    while sender.missing and time.monotonic() < deadline:
        time.sleep(0.05)
    return sender.missing == 0
