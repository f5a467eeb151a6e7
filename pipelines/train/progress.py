"""From the workers' messages to the run's journal and to what a person watches."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipelines.tracking import Journal
from pipelines.train.control_actor import Message

log = logging.getLogger(__name__)

Phase = Literal["starting", "training", "restarting", "stopping", "previewing", "done"]

# Parts of a log record that are no measurement.
_NOT_METRICS = ("samples_seen", "stopped", "event", "folder")


@dataclass(frozen=True)
class TrainProgress:
    """A moment of a run, as a person wants to see it."""

    phase: Phase
    # Position and length of the run, in samples.
    samples_seen: int
    samples: int
    # Latest numbers, such as loss and samples_per_s.
    metrics: Mapping[str, float] = field(default_factory=dict)
    # Seconds left at the present speed; None while that is unknown.
    eta_s: float | None = None
    # Something to be told in words; None where there are only numbers.
    message: str | None = None


class RunRecord:
    """Keeps the journal of a run and tells of its progress, from messages in order."""

    def __init__(
        self,
        journal: Journal,
        samples: int,
        on_progress: Callable[[TrainProgress], None] | None = None,
    ) -> None:
        """Write to ``journal`` and tell ``on_progress``; ``samples`` is the run's length."""
        self._journal = journal
        self._samples = samples
        self._on_progress = on_progress
        self._seen = 0
        self._starts = 0
        #: The last value of everything measured.
        self.metrics: dict[str, Any] = {}
        #: The newest checkpoint's folder, until somebody takes it.
        self.checkpoint: Path | None = None
        #: Bad input that a worker met: what and remedy.
        self.refusal: tuple[str, str] | None = None
        #: Failures of workers, in order: rank, node, error, traceback.
        self.failures: list[dict[str, Any]] = []

    @property
    def samples_seen(self) -> int:
        """How far the run is."""
        return self._seen

    @property
    def started(self) -> bool:
        """Whether workers have begun to train."""
        return self._starts > 0

    def take(self, messages: list[Message]) -> None:
        """Take in messages; kinds that are unknown are passed over."""
        for kind, body in messages:
            handle = getattr(self, f"_take_{kind}", None)
            if handle is not None:
                handle(body)

    def tell(self, phase: Phase, message: str | None = None) -> None:
        """Tell the person where the run is."""
        if self._on_progress is None:
            return
        numbers = {k: v for k, v in self.metrics.items() if isinstance(v, int | float)}
        rate = numbers.get("samples_per_s", 0.0)
        left = (self._samples - self._seen) / rate if rate > 0 else None
        self._on_progress(TrainProgress(phase, self._seen, self._samples, numbers, left, message))

    def _take_start(self, facts: dict[str, Any]) -> None:
        self._starts += 1
        self._journal.tags(
            {
                "mlflow.source.git.commit": str(facts.get("git")),
                "workers": str(facts.get("workers")),
                "device": str(facts.get("device")),
                "parameters": str(facts.get("parameters")),
            }
        )
        self._journal.dataset(
            name=Path(str(facts["data"][0])).name if facts.get("data") else "data",
            digest=str(facts.get("index_digest")),
            source=",".join(map(str, facts.get("data", []))),
            filter=str(facts.get("filter")),
            clips=int(facts.get("clips", 0)),
        )
        plural = "" if facts.get("workers") == 1 else "s"
        self.tell(
            "training",
            f"{facts.get('workers')} worker{plural} on {facts.get('device')}, "
            f"{facts.get('clips')} clips, {facts.get('parameters', 0) / 1e6:.2f} M parameters",
        )

    def _take_log(self, record: dict[str, Any]) -> None:
        self._seen = int(record.get("samples_seen", self._seen))
        if "event" in record:
            self._journal.event(record)
            if record["event"] == "resumed":
                self.tell("training", f"resumed at sample {self._seen}")
            return
        self._measure(record)
        self.tell("training")

    def _take_validation(self, record: dict[str, Any]) -> None:
        self._measure(record)
        self.tell("training")

    def _take_checkpoint(self, record: dict[str, Any]) -> None:
        self.checkpoint = Path(record["folder"])
        self.tell("training", f"checkpoint {record['folder']}")

    def _take_end(self, metrics: dict[str, Any]) -> None:
        self.metrics |= metrics
        self._seen = int(metrics.get("samples_seen", self._seen))

    def _take_warning(self, body: dict[str, Any]) -> None:
        words = f"worker {body['rank']}: {body['text']}"
        if self._on_progress is None:
            log.log(body["level"], "%s", words)
        self.tell("training", words)

    def _take_refused(self, body: dict[str, Any]) -> None:
        self.refusal = self.refusal or (body["what"], body["remedy"])

    def _take_failed(self, body: dict[str, Any]) -> None:
        self.failures.append(body)
        self.tell("restarting", f"worker {body['rank']} failed: {body['error']}")

    def _measure(self, record: dict[str, Any]) -> None:
        numbers = {
            name: float(value)
            for name, value in record.items()
            if name not in _NOT_METRICS and isinstance(value, int | float)
        }
        self.metrics |= numbers
        self._journal.metrics(int(record["samples_seen"]), numbers)


def root_cause(failures: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the failure that brought the others about.

    When one worker fails, its neighbours fail too, in the exchange they were waiting in; those are
    told by their words.
    """
    if not failures:
        return None

    def secondhand(failure: dict[str, Any]) -> bool:
        error = failure["error"].lower()
        return any(word in error for word in ("closed by peer", "gloo", "nccl", "connection reset"))

    return next((f for f in reversed(failures) if not secondhand(f)), failures[-1])


def finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers among metrics that are finite."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
