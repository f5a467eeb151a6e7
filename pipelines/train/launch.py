"""Launch of a training job's workers through Ray Train, watched until they end."""

import math
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.cluster.connect import Cluster
from pipelines.cluster.resources import WorkerCount, resources_per_worker, uses_gpu
from pipelines.tracking import RunLog
from pipelines.train.control_actor import Message, start_control_actor
from pipelines.train.failures import training_error
from pipelines.train.previews import Previewer, free_gpus
from pipelines.train.progress import RunRecord
from pipelines.train.run_folder import RunFolder
from pipelines.train.worker import PLACEMENT_FILE, run_worker
from xnemo.config import to_dict
from xnemo.training.config import TrainConfig

if TYPE_CHECKING:
    from ray.train.v2.api.result import Result
    from ray.train.v2.torch.torch_trainer import TorchTrainer

# Seconds between two fetches of the workers' messages.
_FETCH_EVERY_S = 1.0

# Seconds between an elastic job's checks for new machines. Growing repeats the samples since the
# last checkpoint, so it is not done at every opportunity.
_GROW_EVERY_S = 120.0

# Seconds without a worker after which the missing resources are reported.
_REPORT_WAIT_AFTER_S = 60.0

# Seconds without a poll after which a worker counts as gone; writing a checkpoint may take a while.
_GONE_AFTER_S = 60.0

# Seconds that the end of a run waits for its preview.
_PREVIEW_LIMIT_S = 300.0


@dataclass
class WorkerLaunch:
    """One launch of the workers of a run."""

    config: TrainConfig
    data: list[str]
    folder: RunFolder
    log: RunLog
    record: RunRecord
    max_failures: int
    previews: bool
    pause_every: int | None

    def run(
        self,
        cluster: Cluster,
        count: WorkerCount,
        cpus: float | None,
        use_gpu: bool | None,
        stop: threading.Event,
    ) -> None:
        """Start the workers and return when they have ended without an error.

        Once ``stop`` is set the workers save a checkpoint and end.

        Raises:
            UserError: the workers failed.
        """
        gpu = uses_gpu(self.config.engine.device, cluster) if use_gpu is None else use_gpu
        resources = resources_per_worker(count, cluster, cpus, gpu)
        # A private Ray is never preempted, and the watcher delays every start by seconds.
        os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = str(int(cluster.address != "local"))
        each = " + ".join(f"{amount:g} {name}" for name, amount in resources.items())
        number = f"{count.least} to {count.most}" if count.elastic else str(count.most)
        self.record.report("starting", f"{number} worker(s), {each} each")
        actor = start_control_actor()
        token = self.folder.path / f".visible-{uuid.uuid4().hex}"
        token.touch()
        previewer = Previewer(self.log, self.data, self.folder.path)
        spare = free_gpus(cluster, count.most, gpu) if self.previews else None
        try:
            trainer = self._trainer(actor, token.name, count, resources, gpu)
            self._watch(trainer, actor, previewer, spare, stop)
            (self.folder.path / PLACEMENT_FILE).unlink(missing_ok=True)
        finally:
            token.unlink(missing_ok=True)
            # Ray's own files of this launch are never read again.
            shutil.rmtree(self.folder.path / ".ray", ignore_errors=True)
        if (
            self.previews
            and self.config.stage != "motion"
            and self.record.samples_seen >= self.config.samples
        ):
            _finish(previewer, stop)
            self.record.report("previewing", "animating a few held-out clips")
            previewer.start(self.folder.bundle, self.record.samples_seen, 1.0 if gpu else 0.0)
            _finish(previewer, stop)

    def _trainer(
        self,
        actor: Any,
        token: str,
        count: WorkerCount,
        resources: dict[str, float],
        gpu: bool,
    ) -> "TorchTrainer":
        # Interval of the controller's health checks, which delays the end by as much.
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1.0")
        # Workers stay in the driver's folder, to which relative paths refer.
        os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
        # Imported by full name: `ray.train` has the types of version 1.
        from ray.train.torch import TorchConfig
        from ray.train.v2.api.config import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
        from ray.train.v2.torch.torch_trainer import TorchTrainer

        job = {
            "config": to_dict(self.config),
            "data": self.data,
            "run_dir": str(self.folder.path),
            "token": token,
            "control_actor": actor,
            "cwd": os.getcwd(),
            "pause_every": self.pause_every,
        }
        return TorchTrainer(
            run_worker,
            train_loop_config=job,
            torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=(count.least, count.most) if count.elastic else count.most,
                use_gpu=gpu,
                resources_per_worker=resources,
                elastic_resize_monitor_interval_s=_GROW_EVERY_S,
            ),
            run_config=RunConfig(
                # A new name each time: the training loop resumes from its own checkpoints, and Ray
                # must not restore a state of its own.
                name=f"attempt-{uuid.uuid4().hex[:8]}",
                storage_path=str(self.folder.path / ".ray"),
                failure_config=FailureConfig(max_failures=self.max_failures),
                logging_config=LoggingConfig(log_level="ERROR"),
            ),
        )

    def _watch(
        self,
        trainer: "TorchTrainer",
        actor: Any,
        previewer: Previewer,
        spare: float | None,
        stop: threading.Event,
    ) -> None:
        """Fit in a thread while this one handles messages and signals."""
        outcome: list[Result | BaseException] = []
        thread = threading.Thread(
            target=_fit, args=(trainer.fit, outcome), name="ray-train", daemon=True
        )
        thread.start()
        stopped_at: float | None = None
        report_wait_at = time.monotonic() + _REPORT_WAIT_AFTER_S
        while thread.is_alive():
            thread.join(_FETCH_EVERY_S)
            self.record.take(_fetch(actor))
            previewer.collect()
            saved = self.record.checkpoint
            if saved is not None and self.record.samples_seen < self.config.samples:
                previewer.start(saved / "bundle", int(saved.name), spare)
                self.record.checkpoint = None
            if not self.record.started and time.monotonic() > report_wait_at:
                report_wait_at = math.inf
                self.record.report("starting", _free_resources())
            if not stop.is_set():
                continue
            # At every turn: a restarted control actor has lost the request.
            actor.request_stop.remote()
            if stopped_at is None:
                stopped_at = time.monotonic()
                self.record.report("stopping", "saving a checkpoint; a second signal ends at once")
            if self._no_worker_left(actor, time.monotonic() - stopped_at):
                # Ray still waits for machines, and there is nothing to save.
                return
        self.record.take(_fetch(actor))
        if self.record.refusal is not None:
            raise self.record.refusal
        (result,) = outcome
        if isinstance(result, BaseException):
            raise training_error(
                self.record.failures, result, self.max_failures, self.folder.path
            ) from result
        self.record.take([("end", result.return_value or {})])

    def _no_worker_left(self, actor: Any, waited: float) -> bool:
        """Return whether no worker can save a checkpoint; each polls every two seconds."""
        import ray

        try:
            silent: float = ray.get(actor.seconds_since_poll.remote())
        except ray.exceptions.ActorUnavailableError:
            return False
        if math.isinf(silent) and self.record.started:
            # A restarted control actor has not been polled yet.
            silent = waited
        return silent > _GONE_AFTER_S


def _fit(fit: Callable[[], "Result"], outcome: "list[Result | BaseException]") -> None:
    try:
        outcome.append(fit())
    except BaseException as error:
        outcome.append(error)


def _fetch(actor: Any) -> list[Message]:
    """Return the workers' messages; none while the control actor restarts."""
    import ray

    try:
        messages = ray.get(actor.fetch.remote())
    except ray.exceptions.ActorUnavailableError:
        return []
    return messages


def _finish(previewer: Previewer, stop: threading.Event) -> None:
    """Wait for a running preview unless a stop is requested."""
    deadline = time.monotonic() + _PREVIEW_LIMIT_S
    while previewer.busy and not stop.is_set() and time.monotonic() < deadline:
        previewer.collect(_FETCH_EVERY_S)


def _free_resources() -> str:
    import ray

    free: dict[str, float] = ray.available_resources()
    amounts = ", ".join(f"{free.get(name, 0):g} {name}s" for name in ("CPU", "GPU"))
    return f"still waiting for workers to start; the cluster has {amounts} free"
