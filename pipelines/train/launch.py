"""One start of a training job's workers through Ray Train, watched until they end."""

import math
import os
import shutil
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Any

from pipelines.cluster.connect import Cluster
from pipelines.cluster.placement import forget_placement
from pipelines.cluster.resources import WorkerCount, resources_per_worker
from pipelines.cluster.worker_memory import kept_memory
from pipelines.tracking import Journal
from pipelines.train.control_actor import start_control_actor
from pipelines.train.previews import Previewer, free_gpus
from pipelines.train.progress import RunRecord, root_cause
from pipelines.train.run_folder import RunFolder
from pipelines.train.worker import run_worker
from preprocessing.errors import UserError
from xnemo.config import to_dict
from xnemo.training.config import TrainConfig

# How often the driver fetches the workers' messages, in seconds.
_FETCH_EVERY_S = 1.0

# How often an elastic job looks for machines that came (back), in seconds. Growing costs the
# samples since the last checkpoint, so it is not done at every opportunity.
_GROW_EVERY_S = 120.0

# After so many seconds without a worker a person is told what is waited for.
_WAIT_TOLD_S = 60.0

# A worker that has not asked for so long whether to stop is not there, in seconds. One that writes
# a large checkpoint may be silent for a while.
_GONE_AFTER_S = 60.0

# How long the end of a run waits for its preview, in seconds.
_PREVIEW_LIMIT_S = 300.0


@dataclass
class TrainJob:
    """One start of the workers, watched until they end."""

    config: TrainConfig
    data: list[str]
    folder: RunFolder
    journal: Journal
    record: RunRecord
    max_failures: int
    previews: bool

    def run(
        self,
        cluster: Cluster,
        count: WorkerCount,
        cpus: float | None,
        use_gpu: bool | None,
        stop: threading.Event,
    ) -> None:
        """Start the workers and return when they have ended in good order.

        Where ``stop`` is set they save a checkpoint first; where there are none, nothing is waited
        for.

        Raises:
            UserError: they have not.
        """
        gpu = use_gpu
        if gpu is None:
            gpu = cluster.gpus > 0 and self.config.engine.device != "cpu"
        resources = resources_per_worker(count, cluster, cpus, gpu)
        # Nobody takes this machine away; its watcher would cost seconds of every start.
        os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = str(int(cluster.address != "local"))
        self._tell_start(count, resources)
        control_actor = start_control_actor()
        token = self.folder.path / f".visible-{uuid.uuid4().hex}"
        token.touch()
        previewer = Previewer(self.journal, self.data, self.folder.path)
        spare = free_gpus(cluster, count.most, gpu) if self.previews else None
        try:
            environment = kept_memory() if cluster.address == "local" and not gpu else {}
            trainer = self._trainer(control_actor, token.name, count, resources, gpu, environment)
            self._watch(trainer, control_actor, previewer, spare, stop)
            forget_placement(self.folder.path)
        finally:
            token.unlink(missing_ok=True)
            # What Ray kept of this start matters to nobody after it.
            shutil.rmtree(self.folder.path / ".ray", ignore_errors=True)
        if self.previews and self.record.samples_seen >= self.config.samples:
            _finish(previewer, stop)
            self.record.tell("previewing", "animating a few held-out clips")
            previewer.start(self.folder.bundle, self.record.samples_seen, 1.0 if gpu else 0.0)
            _finish(previewer, stop)

    def _tell_start(self, count: WorkerCount, resources: dict[str, float]) -> None:
        each = " + ".join(f"{amount:g} {name}" for name, amount in resources.items())
        number = f"{count.least} to {count.most}" if count.elastic else str(count.most)
        self.record.tell("starting", f"{number} worker(s), {each} each")

    def _trainer(
        self,
        control_actor: Any,
        token: str,
        count: WorkerCount,
        resources: dict[str, float],
        gpu: bool,
        environment: dict[str, str],
    ) -> Any:
        # The controller looks after its workers this often; it bounds how late the end is seen.
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1.0")
        # A worker stays in the driver's folder, where relative paths mean what they say.
        os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
        # By their own names: `ray.train` shows type checkers its older self.
        from ray.train.torch import TorchConfig
        from ray.train.v2.api.config import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
        from ray.train.v2.torch.torch_trainer import TorchTrainer

        job = {
            "config": to_dict(self.config),
            "data": self.data,
            "run_dir": str(self.folder.path),
            "token": token,
            "control_actor": control_actor,
            "cwd": os.getcwd(),
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
                # Checkpoints are the loop's own; what Ray keeps must not be taken for a state to go
                # on from.
                name=f"attempt-{uuid.uuid4().hex[:8]}",
                storage_path=str(self.folder.path / ".ray"),
                failure_config=FailureConfig(max_failures=self.max_failures),
                logging_config=LoggingConfig(log_level="ERROR"),
                worker_runtime_env={"env_vars": environment} if environment else None,
            ),
        )

    def _watch(
        self,
        trainer: Any,
        control_actor: Any,
        previewer: Previewer,
        spare: float | None,
        stop: threading.Event,
    ) -> None:
        """Fit in a thread, so that this one is free for messages and signals."""
        outcome: list[Any] = []

        def fit() -> None:
            try:
                outcome.append(trainer.fit())
            except BaseException as error:
                outcome.append(error)

        thread = threading.Thread(target=fit, name="ray-train", daemon=True)
        thread.start()
        asked_at: float | None = None
        patience = time.monotonic() + _WAIT_TOLD_S
        while thread.is_alive():
            thread.join(_FETCH_EVERY_S)
            self.record.take(_fetch(control_actor))
            previewer.collect()
            saved = self.record.checkpoint
            if saved is not None and self.record.samples_seen < self.config.samples:
                previewer.start(saved / "bundle", int(saved.name), spare)
                self.record.checkpoint = None
            if not self.record.started and time.monotonic() > patience:
                patience = float("inf")
                self.record.tell("starting", _waited_for())
            if not stop.is_set():
                continue
            # Every time: a control_actor that was started anew does not know.
            control_actor.request_stop.remote()
            if asked_at is None:
                asked_at = time.monotonic()
                self.record.tell("stopping", "saving a checkpoint; once more ends at once")
            if self._nobody_trains(control_actor, time.monotonic() - asked_at):
                # They may be waited for until machines come: there is nothing to be saved.
                return
        self.record.take(_fetch(control_actor))
        self._judge(outcome[0])

    def _nobody_trains(self, control_actor: Any, waited: float) -> bool:
        """Say whether no worker is there to save a checkpoint; each asks every other second."""
        import ray

        try:
            silence: float = ray.get(control_actor.silence.remote())
        except ray.exceptions.ActorUnavailableError:
            return False
        if math.isinf(silence) and self.record.started:
            # A control_actor that was started anew was not asked yet, and may be.
            silence = waited
        return silence > _GONE_AFTER_S

    def _judge(self, outcome: Any) -> None:
        """Turn what Ray says into nothing, or into one line."""
        if self.record.refusal is not None:
            raise UserError(*self.record.refusal)
        if not isinstance(outcome, BaseException):
            self.record.take([("end", outcome.return_value or {})])
            return
        cause = root_cause(self.record.failures)
        report = self.folder.path / "failure.txt"
        everything = [failure["traceback"] for failure in self.record.failures]
        report.write_text("\n\n".join([*everything, str(outcome)]))
        if cause is not None:
            what = f"worker {cause['rank']} on {cause['node']} failed: {cause['error']}"
        else:
            what = f"training failed: {_told_by_ray(outcome)}"
        if self.max_failures > 0:
            what += f", the last of {self.max_failures + 1} starts"
        raise UserError(
            what,
            f"details are in {report}; the same command goes on from the last checkpoint",
        ) from outcome


def _fetch(control_actor: Any) -> list[Any]:
    """Return the workers' messages; none while the control_actor cannot be reached, which passes."""
    import ray

    try:
        return list(ray.get(control_actor.fetch.remote()))
    except ray.exceptions.ActorUnavailableError:
        return []


def _finish(previewer: Previewer, stop: threading.Event) -> None:
    """Wait for a preview under way, unless the end is asked for."""
    patience = time.monotonic() + _PREVIEW_LIMIT_S
    while previewer.busy and not stop.is_set() and time.monotonic() < patience:
        previewer.collect(_FETCH_EVERY_S)


def _waited_for() -> str:
    import ray

    free = ray.available_resources()
    there = ", ".join(f"{free.get(name, 0):g} {name}s" for name in ("CPU", "GPU"))
    return f"still waiting for workers to start; the cluster has {there} free"


def _told_by_ray(error: BaseException) -> str:
    """Return the most telling line of Ray's report."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "died" in line or "Error" in line]
    return (telling or lines or [type(error).__name__])[-1]
