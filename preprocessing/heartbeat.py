"""A sign of life from long work to whoever may kill it; a no-op where nobody listens."""

import time
from collections.abc import Callable

# Beats closer together than this tell nothing new.
_BEAT_EVERY_S = 0.2

_listener: Callable[[], None] | None = None
_mark: Callable[[int], None] | None = None
_last_beat = 0.0


def heartbeat(at: int | None = None) -> None:
    """Tell that work goes on; cheap enough to call for every frame.

    Called from the work itself, never from a thread of its own: a hang must stop it.

    Args:
        at: How far the work has come, in its own unit. Should it crash or be killed, the last that
            was said is in the `Failure`.
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
    """Have `listener` called at heartbeats from now on, and `mark` with how far work has come."""
    global _listener, _mark
    _listener, _mark = listener, mark
