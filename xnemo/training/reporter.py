"""What the main worker tells the world about a run."""

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
from xnemo.training.session import Session

log = logging.getLogger(__name__)


class Reporter:
    """Write the log, tell the callbacks, upload bundles; silent on all workers but the main one.

    Nothing here takes part in the arithmetic: with or without it the weights are the same.
    """

    def __init__(self, session: Session, run_dir: Path, callbacks: Sequence[Callback]) -> None:
        self._session = session
        self._run_dir = run_dir
        self._main = session.world.is_main
        self._callbacks = Callbacks(callbacks if self._main else ())
        self._log = RunLog(run_dir / "log.jsonl") if self._main else None
        upload = session.config.checkpoint.upload
        self._uploader = Uploader(upload, run_dir) if self._main and upload else None
        self.meter = SpeedMeter(session.world, _peak_flops(session))
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
        """Record the configuration and where the run begins."""
        if not self._main:
            return
        config = self._session.config
        facts = self._session.facts()
        if checkpoint is None:
            self._event({"event": "started", **facts})
        else:
            self.metrics |= checkpoint.record.get("metrics", {})
            self._event({"event": "resumed", **facts, "changed": self._changes(checkpoint)})
        temporary = self._run_dir / ".config.json.tmp"
        temporary.write_text(json.dumps(to_dict(config), indent=1))
        os.replace(temporary, self._run_dir / "config.json")
        self._callbacks.tell("start", config, facts)

    def step(
        self,
        losses: Mapping[str, float],
        norms: Mapping[str, float],
        applied: bool,
        learning_rate_scale: float,
        keys: Sequence[str],
        faults: Sequence[str],
    ) -> None:
        """Take in a step; on every `log_every`-th write a line.

        Raises:
            UserError: on all workers alike, where too many steps were skipped or samples were bad.
        """
        session = self._session
        event = session.guard.judge(losses, applied, session.samples_seen, keys)
        if event is not None:
            self._event(event)
        self._count_faults(faults)
        if applied:
            self._steps += 1
            for name, value in losses.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
        number = session.samples_seen // session.plan.global_batch
        last = session.samples_seen >= session.config.samples
        if (number % session.config.log_every and not last) or not self._steps:
            return
        record: dict[str, Any] = {
            "samples_seen": session.samples_seen,
            **{name: total / self._steps for name, total in self._sums.items()},
            **{f"grad_norm_{name}": norm for name, norm in norms.items()},
            "lr": session.config.optimizer.lr * learning_rate_scale,
            "skipped_steps": session.guard.skipped_total,
            "bad_samples": self._bad_samples,
            **self.meter.read(),
        }
        self._sums, self._steps = {}, 0
        self.metrics |= record
        if self._log is not None:
            self._log.write(record)
        self._callbacks.tell("log", record)

    def validation(self, losses: Mapping[str, float]) -> None:
        """Take in held-out losses."""
        record = {"samples_seen": self._session.samples_seen, **losses}
        self.metrics |= losses
        if self._log is not None:
            self._log.write(record)
        self._callbacks.tell("validation", record)
        self.meter.restart()

    def checkpoint(self, saved: Checkpoint) -> None:
        """Take in a finished checkpoint."""
        self._event({"event": "checkpoint", "path": str(saved.folder)})
        self._callbacks.tell("checkpoint", saved.folder, dict(self.metrics))
        if self._uploader is not None:
            self._uploader.put(saved)
        self.meter.restart()

    def end(self, *, stopped: bool) -> dict[str, Any]:
        """Close the account and return the last metrics."""
        self.metrics["samples_seen"] = self._session.samples_seen
        self.metrics["stopped"] = stopped
        self._event({"event": "stopped" if stopped else "finished"})
        self._callbacks.tell("end", dict(self.metrics))
        return dict(self.metrics)

    def _changes(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Name what a resumed run does otherwise than before: settings, and the data itself."""
        try:
            before = flatten(json.loads((self._run_dir / "config.json").read_text()))
        except (OSError, ValueError):
            before = {}
        now = flatten(to_dict(self._session.config))
        changed = {name: now.get(name) for name in now if before.get(name) != now.get(name)}
        if checkpoint.record.get("index_digest") != self._session.clips.digest:
            changed["the data set"] = self._session.clips.digest
        if changed and before:
            log.warning("resuming with changes: %s", ", ".join(sorted(changed)))
        return changed

    def _count_faults(self, faults: Sequence[str]) -> None:
        for fault in faults:
            self._event({"event": "bad sample", "cause": fault})
        self._bad_samples += len(faults)
        allowed = self._session.config.data.max_bad_samples
        if faults and self._bad_samples > allowed:
            raise UserError(
                f"{self._bad_samples} samples could not be read, the last one {faults[-1]}",
                f"mend the data set, exclude the clips with data.filter, or raise "
                f"data.max_bad_samples above {allowed}",
            )

    def _event(self, record: Mapping[str, Any]) -> None:
        if self._log is None:
            return
        whole = {**record, "samples_seen": self._session.samples_seen}
        self._log.write(whole)
        self._callbacks.tell("log", whole)
        if "cause" in record:
            log.warning("%s at sample %d: %s", record["event"], self._session.samples_seen,
                        record["cause"])  # fmt: skip


def _peak_flops(session: Session) -> float:
    engine = session.config.engine
    if engine.peak_tflops is not None:
        return engine.peak_tflops * 1e12
    if not session.world.is_main:
        return 1.0
    dtype = torch.bfloat16 if engine.precision == "bf16" else torch.float32
    return matrix_rate(session.world.device, dtype)
