"""Training job: a locked run folder, a run log sent to MLflow, and workers through Ray Train."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.cluster.connect import cluster_address, connect, refuse_dead_address
from pipelines.cluster.resources import parse_workers
from pipelines.cluster.signals import stop_on_signals
from pipelines.tracking import RunLog, Sender, choose_uri, default_uri
from pipelines.train.launch import WorkerLaunch
from pipelines.train.progress import RunRecord, TrainProgress
from pipelines.train.run_folder import Resume, open_run
from xnemo.config import flatten, to_dict
from xnemo.data.batch_plan import plan_batches
from xnemo.training.config import TrainConfig
from xnemo.training.preflight import check_data, check_run

# Seconds that the end of a run waits for a tracking server, and the same after a stop: a machine
# that is being taken away leaves half a minute for everything.
_SEND_LIMIT_S = 60.0
_SEND_LIMIT_STOPPED_S = 5.0


@dataclass(frozen=True)
class TrainResult:
    """Outcome of a training job."""

    # Folder of the run.
    run_dir: Path
    # The bundle; it exists also if the run was stopped before its end.
    bundle: Path
    # Last value of everything measured.
    metrics: dict[str, Any]
    # Position of the run, in samples.
    samples_seen: int
    # Whether the run was stopped before its end; the same call resumes it.
    stopped: bool
    # The tracking store, and MLflow's id of the run if the store answered.
    tracking_uri: str
    mlflow_run_id: str | None
    # Number of records that the store has not received; `xnemo sync` sends them.
    unsent: int
    # Wall time of this call in seconds.
    seconds: float


def train(
    config: TrainConfig,
    data: str | Sequence[str],
    run: str,
    *,
    runs_dir: str | Path = "runs",
    address: str | None = None,
    workers: str | int = 1,
    cpus_per_worker: float | None = None,
    use_gpu: bool | None = None,
    max_failures: int = 3,
    resume: Resume = "auto",
    tracking_uri: str | None = None,
    experiment: str = "xnemo",
    parent: str | None = None,
    model: str | None = "",
    previews: bool = True,
    pause_every: int | None = None,
    on_progress: Callable[[TrainProgress], None] | None = None,
) -> TrainResult:
    """Train a recipe on preprocessed data, on this machine or on a cluster.

    The same call again resumes from the last checkpoint, at the exact sample, also with another
    number of workers. SIGTERM and Ctrl-C save a checkpoint and end the job. Workers on a machine
    that is being taken away save a checkpoint too, and the job continues on the other machines.

    Args:
        config: the resolved recipe.
        data: folders or URLs written by `xnemo preprocess`.
        run: name of the run; its folder is ``runs_dir/run``.
        runs_dir: folder of all runs; on a cluster, one that all nodes share.
        address: Ray cluster; None for this machine.
        workers: a number, or ``"MIN:MAX"`` to continue with fewer when machines are lost.
        cpus_per_worker: CPUs that a worker reserves; None divides them evenly.
        use_gpu: one GPU per worker; None if the cluster has any and the recipe allows it.
        max_failures: restarts after lost workers before the job fails; -1 for any number.
        resume: "auto" resumes if there is a checkpoint, "must" requires one, "never" forbids one.
        tracking_uri: MLflow store; None for MLFLOW_TRACKING_URI, else a SQLite file in runs_dir.
        experiment: MLflow experiment.
        parent: key of the search that this run is a trial of.
        model: MLflow's model that the bundle becomes a version of; "" for ``xnemo-RUN``, None for
            none.
        previews: whether to animate a few held-out clips at checkpoints and at the end.
        pause_every: save a checkpoint and stop at the next multiple of this many samples.
        on_progress: called at every change.

    Raises:
        UserError: the input is unusable, or workers failed more often than allowed.
    """
    began = time.monotonic()
    count = parse_workers(workers)
    roots = [absolute_root(root) for root in ([data] if isinstance(data, str) else data)]
    # Unusable input fails here, not half a minute later in a worker.
    plan_batches(config.global_batch, config.micro_batch, 0, count.most)
    if cluster_address(address) is None:
        check_run(config, roots, Path(runs_dir) / run)
    else:
        # Only the nodes may have the weights, and what the machine has to have.
        check_data(config, roots)
    refuse_dead_address(address)
    uri = choose_uri(tracking_uri, default_uri(Path(runs_dir)))
    with open_run(Path(runs_dir) / run, config, resume) as folder:
        log = RunLog(folder.path)
        record = RunRecord(log, config.samples, on_progress)
        if log.key is None or not folder.complete:
            log.start(name=run, experiment=experiment, parent=parent)
            log.params(flatten(to_dict(config)))
        sender = Sender(log, uri)
        try:
            with stop_on_signals() as stop, _ending(log, record, config.samples):
                if folder.complete:
                    record.take([("end", folder.last_metrics())])
                else:
                    launch = WorkerLaunch(
                        config, roots, folder, log, record, max_failures, previews, pause_every
                    )
                    # Ray installs a signal handler that ends this process at once.
                    with connect(address) as cluster, stop_on_signals(stop):
                        if not stop.is_set():
                            launch.run(cluster, count, cpus_per_worker, use_gpu, stop)
                if model is not None and record.samples_seen >= config.samples and not log.ended:
                    log.model(folder.bundle, model or f"xnemo-{run}")
        finally:
            stopped = record.samples_seen < config.samples
            sender.close(_SEND_LIMIT_STOPPED_S if stopped else _SEND_LIMIT_S)
            log.close()
    record.report("done")
    return TrainResult(
        run_dir=folder.path,
        bundle=folder.bundle,
        metrics=record.metrics,
        samples_seen=max(record.samples_seen, folder.resumes_at or 0),
        stopped=record.samples_seen < config.samples,
        tracking_uri=uri,
        mlflow_run_id=sender.run_id,
        unsent=sender.missing,
        seconds=time.monotonic() - began,
    )


@contextmanager
def _ending(log: RunLog, record: RunRecord, samples: int) -> Iterator[None]:
    """Record how a run ends."""
    status = "FAILED"
    try:
        yield
        status = "FINISHED" if record.samples_seen >= samples else "KILLED"
    except SystemExit:
        # Ray Tune stops a trial in this way.
        status = "KILLED"
        raise
    finally:
        if not log.ended:
            log.end(status)


def absolute_root(root: str) -> str:
    """Return a data set's folder as workers find it; a URL stays as it is."""
    return root if "://" in root else str(Path(root).absolute())
