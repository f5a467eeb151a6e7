"""The training job: workers through Ray Train, a journal, MLflow, and a way to stop and go on."""

import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.cluster import Cluster, connect
from pipelines.mailbox import open_mailbox
from pipelines.previews import Previewer, free_gpus
from pipelines.run_folder import Resume, RunFolder, open_run
from pipelines.run_record import RunRecord, TrainProgress, root_cause
from pipelines.signals import stop_on_signals
from pipelines.tracking import Journal, Sender, default_uri
from pipelines.train_worker import run_worker
from pipelines.worker_count import WorkerCount, parse_workers, resources_per_worker
from preprocessing.errors import UserError
from xnemo.config import flatten, to_dict
from xnemo.data.clip_table import open_clips
from xnemo.train.config import TrainConfig

log = logging.getLogger(__name__)

# How often the driver fetches the workers' messages, in seconds.
_FETCH_EVERY_S = 0.5

# How often an elastic job looks for machines that came (back), in seconds. Growing costs the
# samples since the last checkpoint, so it is not done at every opportunity.
_GROW_EVERY_S = 120.0

# After so many seconds without a worker a person is told what is waited for.
_WAIT_TOLD_S = 60.0

# How long the end of a run waits for its preview, in seconds.
_PREVIEW_LIMIT_S = 300.0

# How long the end of a run waits for a tracking server that takes records, in seconds.
_SEND_LIMIT_S = 60.0


@dataclass(frozen=True)
class TrainResult:
    """What a training job leaves behind."""

    # Folder of the run.
    run_dir: Path
    # The bundle; also there when the run was stopped before its end.
    bundle: Path
    # The last value of everything measured.
    metrics: dict[str, Any]
    # Position of the run, in samples.
    samples_seen: int
    # Whether the run was asked to stop before its end; the same command goes on.
    stopped: bool
    # Where the run is tracked, and MLflow's id of it where the store answered.
    tracking_uri: str
    mlflow_run_id: str | None
    # Records that the store has not received; `xnemo sync` sends them.
    unsent: int
    # Wall time of this call in seconds.
    seconds: float


def train(
    config: TrainConfig,
    data: str | Sequence[str],
    run: str,
    *,
    out: str | Path = "runs",
    address: str | None = None,
    workers: str | int = 1,
    cpus_per_worker: float | None = None,
    use_gpu: bool | None = None,
    max_failures: int = 3,
    resume: Resume = "auto",
    tracking_uri: str | None = None,
    experiment: str = "xnemo",
    parent: str | None = None,
    register: bool = True,
    previews: bool = True,
    on_progress: Callable[[TrainProgress], None] | None = None,
) -> TrainResult:
    """Train a recipe on preprocessed data, on this machine or on a cluster.

    The same call again goes on from the last checkpoint, at the exact sample, on as many workers as
    it asks for this time. SIGTERM and Ctrl-C save a checkpoint and end the job in order. When a
    machine is taken away its workers save one too, and the job goes on where there is room.

    Args:
        config: the resolved recipe.
        data: folders or URLs that `xnemo preprocess` wrote.
        run: name of the run; its folder is ``out/run``.
        out: folder of all runs; on a cluster, one that all nodes share.
        address: Ray cluster; None for this machine.
        workers: a number, or ``"MIN:MAX"`` to go on with fewer when machines are lost.
        cpus_per_worker: CPUs that a worker reserves; None shares them out.
        use_gpu: one GPU a worker; None where the cluster has any and the recipe does not forbid it.
        max_failures: lost workers to make up for before giving up; -1 never gives up.
        resume: "auto" goes on where there is a checkpoint, "must" insists, "never" refuses.
        tracking_uri: MLflow store; None for MLFLOW_TRACKING_URI, else a SQLite file in ``out``.
        experiment: MLflow experiment.
        parent: key of the search that this run is a trial of.
        register: whether the bundle becomes a version of MLflow's model ``xnemo-RUN``.
        previews: whether to animate a few held-out clips at checkpoints and at the end.
        on_progress: told of every change; None for silence.

    Raises:
        UserError: the input does not suit, or workers failed more often than allowed.
    """
    began = time.monotonic()
    count = parse_workers(workers)
    roots = [_absolute(root) for root in ([data] if isinstance(data, str) else data)]
    # Bad data is better refused now than by a worker, half a minute later.
    open_clips(roots, config.data.filter)
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or default_uri(Path(out))
    with open_run(Path(out) / run, config, resume) as folder:
        journal = Journal(folder.path)
        record = RunRecord(journal, config.samples, on_progress)
        sender = Sender(journal, uri)
        try:
            if folder.complete:
                # Nothing to do and nothing to tell; the store may still lack some of it.
                record.take([("end", folder.last_metrics())])
            else:
                job = _Job(config, roots, folder, journal, record, max_failures, previews)
                with _told(journal, run, experiment, parent, config) as end:
                    with connect(address) as cluster:
                        job.run(cluster, count, cpus_per_worker, use_gpu)
                    if record.samples_seen < config.samples:
                        end("KILLED")
                    elif register:
                        journal.model(folder.bundle, f"xnemo-{run}")
        finally:
            sender.close(_SEND_LIMIT_S)
            journal.close()
    record.tell("done")
    return TrainResult(
        run_dir=folder.path,
        bundle=folder.bundle,
        metrics=record.metrics,
        samples_seen=record.samples_seen,
        stopped=record.samples_seen < config.samples,
        tracking_uri=uri,
        mlflow_run_id=sender.run_id,
        unsent=sender.missing,
        seconds=time.monotonic() - began,
    )


@dataclass
class _Job:
    """One start of the workers, watched until they end."""

    config: TrainConfig
    data: list[str]
    folder: RunFolder
    journal: Journal
    record: RunRecord
    max_failures: int
    previews: bool

    def run(
        self, cluster: Cluster, count: WorkerCount, cpus: float | None, use_gpu: bool | None
    ) -> None:
        """Start the workers and return when they have ended in good order.

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
        mailbox = open_mailbox()
        token = self.folder.path / f".visible-{uuid.uuid4().hex}"
        token.touch()
        previewer = Previewer(self.journal, self.data, self.folder.path)
        spare = free_gpus(cluster, count.most, gpu) if self.previews else None
        try:
            trainer = self._trainer(mailbox, token.name, count, resources, gpu)
            self._watch(trainer, mailbox, previewer, spare)
        finally:
            token.unlink(missing_ok=True)
            # What Ray kept of this start matters to nobody after it.
            shutil.rmtree(self.folder.path / ".ray", ignore_errors=True)
        if self.previews and self.record.samples_seen >= self.config.samples:
            previewer.collect(_PREVIEW_LIMIT_S)
            self.record.tell("previewing", "animating a few held-out clips")
            previewer.start(self.folder.bundle, self.record.samples_seen, 1.0 if gpu else 0.0)
            previewer.collect(_PREVIEW_LIMIT_S)

    def _tell_start(self, count: WorkerCount, resources: dict[str, float]) -> None:
        each = " + ".join(f"{amount:g} {name}" for name, amount in resources.items())
        number = f"{count.least} to {count.most}" if count.elastic else str(count.most)
        self.record.tell("starting", f"{number} worker(s), {each} each")

    def _trainer(
        self,
        mailbox: Any,
        token: str,
        count: WorkerCount,
        resources: dict[str, float],
        gpu: bool,
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
            "mailbox": mailbox,
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
            ),
        )

    def _watch(self, trainer: Any, mailbox: Any, previewer: Previewer, spare: float | None) -> None:
        """Fit in a thread, so that this one is free for messages and signals."""
        outcome: list[Any] = []

        def fit() -> None:
            try:
                outcome.append(trainer.fit())
            except BaseException as error:
                outcome.append(error)

        thread = threading.Thread(target=fit, name="ray-train", daemon=True)
        with stop_on_signals() as stop:
            thread.start()
            asked, patience = False, time.monotonic() + _WAIT_TOLD_S
            while thread.is_alive():
                thread.join(_FETCH_EVERY_S)
                self.record.take(_fetch(mailbox))
                previewer.collect()
                saved = self.record.checkpoint
                if saved is not None and self.record.samples_seen < self.config.samples:
                    previewer.start(saved / "bundle", int(saved.name), spare)
                    self.record.checkpoint = None
                if not self.record.started and time.monotonic() > patience:
                    patience = float("inf")
                    self.record.tell("starting", _waited_for())
                if stop.is_set() and not asked:
                    asked = True
                    mailbox.request_stop.remote()
                    self.record.tell("stopping", "saving a checkpoint; once more ends at once")
        self.record.take(_fetch(mailbox))
        self._judge(outcome[0])

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


@contextmanager
def _told(
    journal: Journal, run: str, experiment: str, parent: str | None, config: TrainConfig
) -> Iterator[Callable[[str], None]]:
    """Note begin and end of a run in its journal; what is given changes how it ended."""
    status = ["FINISHED"]
    journal.start(name=run, experiment=experiment, parent=parent)
    journal.params(flatten(to_dict(config)))
    try:
        yield lambda ended: status.__setitem__(0, ended)
    except BaseException:
        status[0] = "FAILED"
        raise
    finally:
        journal.end(status[0])


def _fetch(mailbox: Any) -> list[Any]:
    """Return the workers' messages; none while the mailbox cannot be reached, which passes."""
    import ray

    try:
        return list(ray.get(mailbox.fetch.remote()))
    except ray.exceptions.ActorUnavailableError:
        return []


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


def _absolute(root: str) -> str:
    return root if "://" in root else str(Path(root).absolute())
