"""The verification job: compares a finished data set with its checksums."""

import os
from contextlib import ExitStack

from pipelines.preprocess.progress import JobProgress, OnProgress, show_live
from pipelines.preprocess.result import Verification
from pipelines.terminal.live_progress import live_progress
from preprocessing.dataset.verify import verify as verify_store
from preprocessing.storage.store import open_store


def verify(out: str | os.PathLike[str], *, on_progress: OnProgress | None = None) -> Verification:
    """Compare every member of every shard with the checksum in the index.

    Args:
        out: folder or fsspec URL of the data set.
        on_progress: called after each shard; None shows progress on standard error.

    Raises:
        UserError: there is no index, or it cannot be read.
    """
    with ExitStack() as stack:
        notify = on_progress or show_live(stack.enter_context(live_progress()))
        store = open_store(out)
        members, faults = verify_store(store, lambda n, of: notify(JobProgress("verify", n, of)))
        return Verification(store.url, members, tuple(faults))
