"""Measures what the stages of a job take: wall time of each, and memory of all processes."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

# Adding up the pages of a dozen processes is not free.
_WEIGH_EVERY_S = 3.0


@dataclass
class Stages:
    """Seconds by stage, in the order they ran, and the largest memory seen."""

    seconds: dict[str, float] = field(default_factory=dict)
    # Bytes of this process and all its descendants together.
    peak_memory: int = 0

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Time a block; it counts even where it fails."""
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
            if over.wait(_WEIGH_EVERY_S):
                return


def family_memory() -> int:
    """Bytes of memory of this process and its descendants; shared pages are counted once.

    Proportional set sizes where the system tells them (Linux), resident sizes elsewhere.
    """
    me = psutil.Process()
    total = 0
    for process in [me, *me.children(recursive=True)]:
        try:
            memory = process.memory_full_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            # It ended meanwhile, or is not ours to look into.
            continue
        total += getattr(memory, "pss", memory.rss)
    return total
