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
    changed = _to_batch()
    try:
        yield
    finally:
        if changed:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def leave_batch() -> None:
    """Give this thread, and what it starts from now on, the ordinary policy again.

    For one that others do wait on: a thread that feeds a GPU computes next to nothing, and must
    have a core the moment it wakes, however many loaders are at work.
    """
    if hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_BATCH:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _to_batch() -> bool:
    """Change this thread's policy; return whether that was done."""
    if not hasattr(os, "SCHED_BATCH"):
        return False
    try:
        if os.sched_getscheduler(0) != os.SCHED_OTHER:
            return False
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError as error:
        log.debug("no batch scheduling here: %s", error)
        return False
    return True
