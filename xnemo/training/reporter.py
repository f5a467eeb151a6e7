"""Report of a run by its main worker: log, callbacks and uploads."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from preprocessing.errors import UserError
from xnemo.config import flatten, to_dict
from xnemo.training.checkpoint.store import Checkpoint
from xnemo.training.checkpoint.upload import Uploader
from xnemo.training.monitor.callbacks import Callback, Callbacks
from xnemo.training.monitor.run_log import RunLog
from xnemo.training.monitor.speed import SpeedMeter, matrix_rate
from xnemo.training.state import TrainState

log = logging.getLogger(__name__)


class Reporter:
    """Write the log, call the callbacks and upload bundles, on the main worker only.

    The guard runs on all workers. Nothing here changes the weights.
    """

    def __init__(
        self,
        state: TrainState,
        run_dir: Path,
        callbacks: Sequence[Callback],
        write_log: bool = True,
    ) -> None:
        self._state = state
        self._run_dir = run_dir
        self._main = state.world.is_main
        self._callbacks = Callbacks(callbacks if self._main else ())
        self._log = RunLog(run_dir) if self._main and write_log else None
        upload = state.config.checkpoint.upload
        self._uploader = Uploader(upload, run_dir) if self._main and upload else None
        self.meter = SpeedMeter(state.world, _peak_flops(state))
        self.metrics: dict[str, Any] = {}
        self._sums: dict[str, float] = {}
        self._steps = 0
        self._bad_samples = 0

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._uploader is not None:
            self._uploader.close()
        if self._log is not None:
            self._log.close()

    def start(self, checkpoint: Checkpoint | None) -> None:
        """Log the start or resume, and write `config.json`."""
        if not self._main:
            return
        config = self._state.config
        facts = self._state.facts()
        if checkpoint is None:
            self._event({"event": "started", **facts})
        else:
            self.metrics |= checkpoint.record.get("metrics", {})
            self._event({"event": "resumed", **facts, "changed": self._changes(checkpoint)})
        temporary = self._run_dir / ".config.json.tmp"
        temporary.write_text(json.dumps(to_dict(config), indent=1))
        os.replace(temporary, self._run_dir / "config.json")
        self._callbacks.call("start", config, facts)

    def step(
        self,
        losses: Mapping[str, float],
        norms: Mapping[str, float],
        applied: bool,
        learning_rate_scale: float,
        keys: Sequence[str],
        faults: Sequence[str],
    ) -> None:
        """Check a step, and write a line of the log every `log_every` steps.

        Args:
            losses: mean of each loss over all workers.
            norms: gradient norm of each engine.
            applied: whether both engines applied the step.
            learning_rate_scale: factor on the configured learning rates.
            keys: clips of this worker's samples.
            faults: why samples were replaced, over all workers.

        Raises:
            UserError: on all workers, if too many steps were skipped or samples were bad.
        """
        state = self._state
        event = state.guard.check(losses, applied, state.samples_seen, keys)
        if event is not None:
            self._event(event)
        self._count_faults(faults)
        if applied:
            self._steps += 1
            for name, value in losses.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
        number = state.samples_seen // state.plan.global_batch
        last = state.samples_seen >= state.config.samples
        if (number % state.config.log_every and not last) or not self._steps:
            return
        record: dict[str, Any] = {
            "samples_seen": state.samples_seen,
            **{name: total / self._steps for name, total in self._sums.items()},
            **{f"grad_norm_{name}": norm for name, norm in norms.items()},
            "lr": state.config.optimizer.lr * learning_rate_scale,
            "skipped_steps": state.guard.skipped_total,
            "bad_samples": self._bad_samples,
            **self.meter.read(),
        }
        self._sums, self._steps = {}, 0
        self.metrics |= record
        self._measured("log", record)

    def validation(self, losses: Mapping[str, float]) -> None:
        """Log losses on held-out clips."""
        record = {"samples_seen": self._state.samples_seen, **losses}
        self.metrics |= losses
        self._measured("validation", record)
        self.meter.restart()

    def checkpoint(self, saved: Checkpoint) -> None:
        """Log and upload a finished checkpoint."""
        self._event({"event": "checkpoint", "path": str(saved.folder)})
        self._callbacks.call("checkpoint", saved.folder, dict(self.metrics))
        if self._uploader is not None:
            self._uploader.put(saved)
        self.meter.restart()

    def end(self, *, stopped: bool) -> dict[str, Any]:
        """Log the end and return the last metrics."""
        self.metrics["samples_seen"] = self._state.samples_seen
        self.metrics["stopped"] = stopped
        self._event({"event": "stopped" if stopped else "finished"})
        self._callbacks.call("end", dict(self.metrics))
        return dict(self.metrics)

    def _changes(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Return the settings that changed before a resume, and the index digest if it changed."""
        try:
            before = flatten(json.loads((self._run_dir / "config.json").read_text()))
        except (OSError, ValueError):
            before = {}
        now = flatten(to_dict(self._state.config))
        changed = {name: now.get(name) for name in now if before.get(name) != now.get(name)}
        if checkpoint.record.get("index_digest") != self._state.clips.digest:
            changed["data set"] = self._state.clips.digest
        if changed and before:
            log.warning("resuming with changes: %s", ", ".join(sorted(changed)))
        return changed

    def _count_faults(self, faults: Sequence[str]) -> None:
        for fault in faults:
            self._event({"event": "bad sample", "cause": fault})
        self._bad_samples += len(faults)
        allowed = self._state.config.data.max_bad_samples
        if faults and self._bad_samples > allowed:
            raise UserError(
                f"{self._bad_samples} samples cannot be read, the last one: {faults[-1]}",
                f"fix the data set, exclude the clips with data.filter, or raise "
                f"data.max_bad_samples above {allowed}",
            )

    def _measured(self, kind: str, record: Mapping[str, Any]) -> None:
        if self._log is not None:
            self._log.metrics(self._state.samples_seen, record)
        self._callbacks.call(kind, record)

    def _event(self, record: Mapping[str, Any]) -> None:
        if not self._main:
            return
        whole = {**record, "samples_seen": self._state.samples_seen}
        if self._log is not None:
            self._log.event(whole)
        self._callbacks.call("log", whole)
        if "cause" in record:
            log.warning("%s at sample %d: %s", record["event"], self._state.samples_seen,
                        record["cause"])  # fmt: skip


def _peak_flops(state: TrainState) -> float:
    engine = state.config.engine
    if engine.peak_tflops is not None:
        return engine.peak_tflops * 1e12
    if not state.world.is_main:
        return 1.0
    device = state.world.device
    if engine.precision == "fp32":
        return matrix_rate(device, torch.float32)
    rate = matrix_rate(device, torch.bfloat16)
    if device.type == "cpu" and rate < matrix_rate(device, torch.float32):
        log.warning(
            "this CPU computes bf16 slower than fp32: engine.precision=fp32 trains several times "
            "faster on it"
        )
    return rate
