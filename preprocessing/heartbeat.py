"""Heartbeat of long work to the process that may kill it; a no-op without a listener."""

import time
from collections.abc import Callable

# Least time between two heartbeats that are sent.
_BEAT_EVERY_S = 0.2

_listener: Callable[[], None] | None = None
_mark: Callable[[int], None] | None = None
_last_beat = 0.0


def heartbeat(at: int | None = None) -> None:
    """Report that work continues; cheap enough to call for every frame.

    Call it from the work itself, never from a thread of its own: a hang must stop it.

    Args:
        at: Progress of the work in its own unit; `Failure.reached` holds the last value.
    """
    global _last_beat
    if _mark is not None and at is not None:
        _mark(at)
    if _listener is None:
        return
    now = time.monotonic()
    if now - _last_beat >= _BEAT_EVERY_S:
        _last_beat = now
        _listener()


def listen(listener: Callable[[], None], mark: Callable[[int], None]) -> None:
    """Register `listener` for heartbeats, and `mark` for the progress they carry."""
    global _listener, _mark
    _listener, _mark = listener, mark
