"""What all stages of one job share: the store, the settings, Ray and the progress callback."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from pipelines.cluster.connect import connect, silence_ray_data
from pipelines.preprocess.progress import OnProgress, show_live
from pipelines.terminal.live_progress import live_progress
from preprocessing.config import PreprocessConfig
from preprocessing.errors import UserError
from preprocessing.paths import user_path
from preprocessing.storage.store import Store, StoreFullError, open_store


class Workers:
    """The connection to Ray of one job, opened when a stage first needs it."""

    def __init__(self, address: str | None, wanted: int | None, stack: ExitStack) -> None:
        """Remember where to connect to.

        Args:
            address: Ray cluster; None for this machine.
            wanted: tasks at once; None for one per CPU.
            stack: closes the connection.
        """
        self._address = address
        self._stack = stack
        self.wanted = wanted
        #: Tasks at once; 0 while Ray is not connected.
        self.used = 0

    def connect(self) -> int:
        """Connect to Ray and return how many tasks run at once."""
        if not self.used:
            silence_ray_data()
            cluster = self._stack.enter_context(connect(self._address, self.wanted))
            self.used = self.wanted or max(1, int(cluster.cpus))
        return self.used


@dataclass(frozen=True)
class JobContext:
    """The surroundings of one job."""

    store: Store
    config: PreprocessConfig
    workers: Workers
    notify: OnProgress


@contextmanager
def job_context(
    out: str | os.PathLike[str],
    config: PreprocessConfig | None,
    address: str | None,
    concurrency: int | None,
    on_progress: OnProgress | None,
) -> Iterator[JobContext]:
    """Open the store and, when needed, Ray for the length of a block.

    Arguments are those of `preprocess`.
    """
    with ExitStack() as stack:
        yield JobContext(
            store=open_store(out),
            config=_with_absolute_model_dir(config or PreprocessConfig()),
            workers=Workers(address, concurrency, stack),
            notify=on_progress or show_live(stack.enter_context(live_progress())),
        )


@contextmanager
def write_errors(store: Store) -> Iterator[None]:
    """Raise failures to write to the store as errors of one line."""
    try:
        yield
    except StoreFullError as error:
        raise cannot_write(store, "full", str(error)) from error
    except PermissionError as error:
        raise cannot_write(store, "failed", error.strerror or str(error)) from error


def cannot_write(store: Store, status: str, detail: str) -> UserError:
    """Return the error for a store that is full or does not accept writes.

    Args:
        store: where the data set is.
        status: as in `ChunkRecord`: "full" or "failed".
        detail: the system's message.
    """
    if status == "full":
        return UserError(
            f"no space is left in {store.url}; finished chunks are kept",
            "free some space and run the same command: it resumes",
        )
    return UserError(
        f"cannot write to {store.url}: {detail}; finished chunks are kept",
        "fix that and run the same command: it resumes",
    )


def _with_absolute_model_dir(config: PreprocessConfig) -> PreprocessConfig:
    """Make a relative model folder absolute: workers have another working directory."""
    folder = config.detect.model_dir
    if folder and user_path(folder).is_dir():
        folder = str(user_path(folder).absolute())
        return replace(config, detect=replace(config.detect, model_dir=folder))
    return config
