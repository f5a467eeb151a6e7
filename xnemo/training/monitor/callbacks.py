"""Callbacks of a training run."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from xnemo.training.config import TrainConfig

log = logging.getLogger(__name__)


class Callback(Protocol):
    """Receives a run's events on the main worker. Errors are logged and do not stop training."""

    def on_start(self, config: TrainConfig, facts: Mapping[str, Any]) -> None:
        """Handle the start; `facts` are index digest, git revision, workers, parameters, ..."""

    def on_log(self, record: Mapping[str, Any]) -> None:
        """Handle a record of the log: losses, speed and memory, or an event."""

    def on_validation(self, record: Mapping[str, Any]) -> None:
        """Handle losses on held-out clips."""

    def on_checkpoint(self, folder: Path, record: Mapping[str, Any]) -> None:
        """Handle a finished checkpoint; its bundle is `folder/bundle`."""

    def on_end(self, metrics: Mapping[str, Any]) -> None:
        """Handle the end of training, or a stop on request."""


class Callbacks:
    """Several callbacks; an error is logged once per callback and event."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = list(callbacks)
        self._failed: set[tuple[int, str]] = set()

    def call(self, event: str, *arguments: object) -> None:
        """Call `on_<event>` of every callback."""
        for number, callback in enumerate(self._callbacks):
            try:
                getattr(callback, f"on_{event}")(*arguments)
            except Exception as error:
                if (number, event) not in self._failed:
                    self._failed.add((number, event))
                    log.warning(
                        "%s failed at on_%s, and training continues: %s",
                        type(callback).__name__,
                        event,
                        error,
                    )
