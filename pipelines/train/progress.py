"""Messages of the workers become the run log and progress reports."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipelines.tracking import RunLog
from pipelines.train.control_actor import Message
from preprocessing.errors import Diverged, UserError

_log = logging.getLogger(__name__)

Phase = Literal["starting", "training", "restarting", "stopping", "previewing", "done"]


@dataclass(frozen=True)
class TrainProgress:
    """State of a run, as shown to the user."""

    phase: Phase
    # Position and length of the run, in samples.
    samples_seen: int
    samples: int
    # Latest measurements, such as loss and samples_per_s.
    metrics: Mapping[str, float] = field(default_factory=dict)
    # Seconds left at the present speed; None if unknown.
    eta_s: float | None = None
    # Message in words; None if there are only numbers.
    message: str | None = None


class RunRecord:
    """Writes the run log and reports progress, from the workers' messages in order."""

    def __init__(
        self,
        log: RunLog,
        samples: int,
        on_progress: Callable[[TrainProgress], None] | None = None,
    ) -> None:
        """Write to ``log`` and call ``on_progress``; ``samples`` is the length of the run."""
        self._log = log
        self._samples = samples
        self._on_progress = on_progress
        #: Position of the run, in samples.
        self.samples_seen = 0
        #: Whether workers have started to train.
        self.started = False
        #: Last value of everything measured.
        self.metrics: dict[str, Any] = {}
        #: Folder of the newest checkpoint, until the reader resets it.
        self.checkpoint: Path | None = None
        #: Unusable input, or divergence, that a worker found.
        self.refusal: UserError | None = None
        #: Failures of workers, in order: rank, node, error, traceback.
        self.failures: list[dict[str, Any]] = []

    def take(self, messages: list[Message]) -> None:
        """Process messages; unknown kinds are ignored."""
        for kind, body in messages:
            handle = getattr(self, f"_take_{kind}", None)
            if handle is not None:
                handle(body)

    def report(self, phase: Phase, message: str | None = None) -> None:
        """Report progress to the caller of the job."""
        if self._on_progress is None:
            return
        numbers = {k: v for k, v in self.metrics.items() if isinstance(v, int | float)}
        rate = numbers.get("samples_per_s", 0.0)
        left = (self._samples - self.samples_seen) / rate if rate > 0 else None
        self._on_progress(
            TrainProgress(phase, self.samples_seen, self._samples, numbers, left, message)
        )

    def _take_start(self, facts: dict[str, Any]) -> None:
        self.started = True
        self._log.tags(
            {
                "mlflow.source.git.commit": str(facts.get("git")),
                "workers": str(facts.get("workers")),
                "device": str(facts.get("device")),
                "parameters": str(facts.get("parameters")),
            }
        )
        self._log.dataset(
            name=Path(str(facts["data"][0])).name if facts.get("data") else "data",
            digest=str(facts.get("index_digest")),
            source=",".join(map(str, facts.get("data", []))),
            filter=str(facts.get("filter")),
            clips=int(facts.get("clips", 0)),
        )
        plural = "" if facts.get("workers") == 1 else "s"
        self.report(
            "training",
            f"{facts.get('workers')} worker{plural} on {facts.get('device')}, "
            f"{facts.get('clips')} clips, {facts.get('parameters', 0) / 1e6:.2f} M parameters",
        )

    def _take_log(self, record: dict[str, Any]) -> None:
        self.samples_seen = int(record["samples_seen"])
        if "event" not in record:
            self._take_validation(record)
            return
        self._log.event(record)
        if record["event"] == "resumed":
            self.report("training", f"resumed at sample {self.samples_seen}")

    def _take_validation(self, record: dict[str, Any]) -> None:
        numbers = {
            name: float(value)
            for name, value in record.items()
            if name not in ("samples_seen", "time") and isinstance(value, int | float)
        }
        self.metrics |= numbers
        self._log.metrics(int(record["samples_seen"]), numbers, record.get("time"))
        self.report("training")

    def _take_checkpoint(self, record: dict[str, Any]) -> None:
        self.checkpoint = Path(record["folder"])
        self.report("training", f"checkpoint {record['folder']}")

    def _take_end(self, metrics: dict[str, Any]) -> None:
        self.metrics |= metrics
        self.samples_seen = int(metrics.get("samples_seen", self.samples_seen))

    def _take_warning(self, body: dict[str, Any]) -> None:
        message = f"worker {body['rank']}: {body['text']}"
        if self._on_progress is None:
            _log.log(body["level"], "%s", message)
        self.report("training", message)

    def _take_refused(self, body: dict[str, Any]) -> None:
        kind = Diverged if body["diverged"] else UserError
        self.refusal = self.refusal or kind(body["what"], body["remedy"])

    def _take_failed(self, body: dict[str, Any]) -> None:
        self.failures.append(body)
        self.report("restarting", f"worker {body['rank']} failed: {body['error']}")
