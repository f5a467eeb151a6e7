"""The kernel's policy for processes that compute and that nobody waits on."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)


@contextmanager
def batch_scheduling() -> Iterator[None]:
    """Let processes started inside wait for their turn instead of taking it when they wake.

    Ray's idle processes wake hundreds of times a second between them, and each wake would throw a
    worker that computes off its core. Shares of the CPU stay as they are. A policy of the person's
    own (`chrt`) stands, and where the system knows or allows no other nothing changes.
    """
    changed = _change("SCHED_OTHER", "SCHED_BATCH")
    try:
        yield
    finally:
        if changed:
            leave_batch()


def leave_batch() -> None:
    """Give this thread, and what it starts from now on, the ordinary policy again.

    For one that others do wait on: a thread that feeds a GPU computes next to nothing, and must
    have a core the moment it wakes, however many loaders are at work.
    """
    _change("SCHED_BATCH", "SCHED_OTHER")


def _change(present: str, wanted: str) -> bool:
    """Change this thread's policy if it is the present one named; return whether that was done."""
    if not hasattr(os, "SCHED_BATCH"):
        return False
    try:
        if os.sched_getscheduler(0) != getattr(os, present):
            return False
        os.sched_setscheduler(0, getattr(os, wanted), os.sched_param(0))
    except OSError as error:
        log.debug("no %s here: %s", wanted, error)
        return False
    return True
