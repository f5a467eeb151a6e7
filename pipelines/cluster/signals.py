"""Signals: the first one requests an orderly stop, the second one interrupts."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Signals closer together than this are one: `timeout` signals the process and then its group.
_SAME_SIGNAL_S = 1.0


@contextmanager
def stop_on_signals(event: threading.Event | None = None) -> Iterator[threading.Event]:
    """Set an event on the first SIGTERM or SIGINT; the second raises KeyboardInterrupt.

    Blocks may be nested around code that installs its own handlers, such as the start of Ray: pass
    the event of the outer block to the inner one. Without effect outside the main thread.
    """
    stop = event or threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    first = 0.0

    def handle(number: int, frame: FrameType | None) -> None:
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
