"""Report which stage is stuck when a run makes no progress."""

import faulthandler
import logging
import os
import threading
import time
from pathlib import Path

from xnemo.training.config import GuardConfig

log = logging.getLogger(__name__)

# Non-zero, so that a scheduler restarts the process.
EXIT_STATUS = 13


class Watchdog:
    """Context manager with a thread that watches the time since the last `enter`."""

    def __init__(self, config: GuardConfig, run_dir: Path, rank: int) -> None:
        self._config = config
        self._report = run_dir / f"stall_worker{rank}.txt"
        self._stage, self._since = "start", time.monotonic()
        self._reported = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    def enter(self, stage: str) -> None:
        """Enter a stage, such as "data" or "checkpoint"."""
        self._stage, self._since, self._reported = stage, time.monotonic(), False

    def _watch(self) -> None:
        limits = [s for s in (self._config.stall_seconds, self._config.stall_exit_seconds) if s > 0]
        while not self._over.wait(min(limits) / 4):
            stuck = time.monotonic() - self._since
            if stuck > self._config.stall_seconds and not self._reported:
                self._reported = True
                self._write_report(stuck)
            if 0 < self._config.stall_exit_seconds < stuck:
                log.error("exiting after %.0f s without progress in stage %s", stuck, self._stage)
                os._exit(EXIT_STATUS)

    def _write_report(self, stuck: float) -> None:
        with self._report.open("w") as file:
            file.write(f"no progress for {stuck:.0f} s in stage {self._stage}\n")
            faulthandler.dump_traceback(file=file, all_threads=True)
        log.error(
            "no progress for %.0f s in stage %s; the threads' stacks are in %s",
            stuck,
            self._stage,
            self._report,
        )
