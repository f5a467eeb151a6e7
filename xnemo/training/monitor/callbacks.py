"""Whoever wants to know what a run does, without being able to stop it."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from xnemo.training.config import TrainConfig

log = logging.getLogger(__name__)


class Callback(Protocol):
    """Told on the main worker only. Implement all; raise freely."""

    def on_start(self, config: TrainConfig, facts: Mapping[str, Any]) -> None:
        """Training begins; facts are the index digest, git revision, workers, parameters."""

    def on_log(self, record: Mapping[str, Any]) -> None:
        """One line of the log: losses, speed, memory, or an event."""

    def on_validation(self, record: Mapping[str, Any]) -> None:
        """Held-out losses."""

    def on_checkpoint(self, folder: Path, record: Mapping[str, Any]) -> None:
        """A checkpoint is complete; `folder/bundle` is its bundle."""

    def on_end(self, metrics: Mapping[str, Any]) -> None:
        """Training is over or was asked to stop."""


class Callbacks:
    """Several callbacks as one whose failures are logged, once per callback and kind of event."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = list(callbacks)
        self._complained: set[tuple[int, str]] = set()

    def tell(self, event: str, *arguments: Any) -> None:
        """Call `on_<event>` of every callback."""
        for number, callback in enumerate(self._callbacks):
            try:
                getattr(callback, f"on_{event}")(*arguments)
            except Exception as error:
                if (number, event) not in self._complained:
                    self._complained.add((number, event))
                    log.warning(
                        "%s failed at on_%s and training goes on without it: %s",
                        type(callback).__name__,
                        event,
                        error,
                    )
