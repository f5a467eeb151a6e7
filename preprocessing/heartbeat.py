"""A sign of life from long work to whoever may kill it; a no-op where nobody listens."""

import time
from collections.abc import Callable

# Beats closer together than this tell nothing new.
_BEAT_EVERY_S = 0.2

_listener: Callable[[], None] | None = None
_last_beat = 0.0


def heartbeat() -> None:
    """Tell that work goes on; cheap enough to call for every frame.

    Called from the work itself, never from a thread of its own: a hang must stop it.
    """
    global _last_beat
    if _listener is None:
        return
    now = time.monotonic()
    if now - _last_beat >= _BEAT_EVERY_S:
        _last_beat = now
        _listener()


def listen(listener: Callable[[], None]) -> None:
    """Have `listener` called at heartbeats from now on."""
    global _listener
    _listener = listener
