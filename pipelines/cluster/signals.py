"""The first signal asks for a good end, the second for any."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Signals this close together are one: `timeout` sends its to the process and then to its group.
_SAME_SIGNAL_S = 1.0


@contextmanager
def stop_on_signals(event: threading.Event | None = None) -> Iterator[threading.Event]:
    """Turn the first SIGTERM or SIGINT into an event; the second is an interrupt as ever.

    Blocks may lie inside one another around what sets handlers of its own, as Ray does when it
    starts: the inner one is then given the outer one's event.
    """
    stop = event or threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    first = 0.0

    def handle(number: int, frame: Any) -> None:
        nonlocal first
        if not stop.is_set():
            first = time.monotonic()
            stop.set()
        elif time.monotonic() - first > _SAME_SIGNAL_S:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
