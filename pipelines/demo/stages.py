"""Wall time and peak memory of the stages of a job."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

# Summing the memory of a dozen processes takes time.
_SAMPLE_INTERVAL_S = 3.0


@dataclass
class Stages:
    """Seconds by stage, in order, and peak memory."""

    seconds: dict[str, float] = field(default_factory=dict)
    # Bytes of this process and all its descendants.
    peak_memory: int = 0

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Measure a block, also if it fails."""
        begin = time.monotonic()
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(over,), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
            self.seconds[stage] = time.monotonic() - begin

    def _watch(self, over: threading.Event) -> None:
        while True:
            self.peak_memory = max(self.peak_memory, family_memory())
            if over.wait(_SAMPLE_INTERVAL_S):
                return


def family_memory() -> int:
    """Return the memory in bytes of this process and its descendants; shared pages count once.

    Proportional set sizes on Linux, resident set sizes elsewhere.
    """
    me = psutil.Process()
    total = 0
    for process in [me, *me.children(recursive=True)]:
        try:
            memory = process.memory_full_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            # Ended meanwhile, or not accessible.
            continue
        total += getattr(memory, "pss", memory.rss)
    return total
