"""Train a recipe: a folder that is held, a journal, MLflow, and workers through Ray Train."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.cluster.connect import cluster_address, connect, refuse_dead_address
from pipelines.cluster.resources import parse_workers
from pipelines.cluster.signals import stop_on_signals
from pipelines.tracking import Journal, Sender, choose_uri, default_uri
from pipelines.train.launch import TrainJob
from pipelines.train.progress import RunRecord, TrainProgress
from pipelines.train.run_folder import Resume, RunFolder, open_run
from xnemo.config import flatten, to_dict
from xnemo.data.batch_plan import plan_batches
from xnemo.data.clip_table import open_clips
from xnemo.training.config import TrainConfig
from xnemo.training.init_from import resolve_init_from

# How long the end of a run waits for a tracking server that takes records, in seconds.
_SEND_LIMIT_S = 60.0

# The same where the run was stopped: whoever takes the machine away allows half a minute in all.
_SEND_LIMIT_STOPPED_S = 5.0


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
        run: name of the run; its folder is ``runs_dir/run``.
        runs_dir: folder of all runs; on a cluster, one that all nodes share.
        address: Ray cluster; None for this machine.
        workers: a number, or ``"MIN:MAX"`` to go on with fewer when machines are lost.
        cpus_per_worker: CPUs that a worker reserves; None shares them out.
        use_gpu: one GPU a worker; None where the cluster has any and the recipe does not forbid it.
        max_failures: lost workers to make up for before giving up; -1 never gives up.
        resume: "auto" goes on where there is a checkpoint, "must" insists, "never" refuses.
        tracking_uri: MLflow store; None for MLFLOW_TRACKING_URI, else a SQLite file there.
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
    # Bad input is better refused now than by a worker, half a minute later.
    plan_batches(config.global_batch, config.micro_batch, 0, count.most)
    open_clips(roots, config.data.filter)
    refuse_dead_address(address)
    alone = cluster_address(address) is None
    if alone and config.init_from is not None and not (Path(runs_dir) / run).exists():
        # A run that goes on has its weights; the nodes of a cluster may see what this one does not.
        resolve_init_from(config.init_from)
    uri = choose_uri(tracking_uri, default_uri(Path(runs_dir)))
    with open_run(Path(runs_dir) / run, config, resume) as folder:
        journal = Journal(folder.path)
        record = RunRecord(journal, config.samples, on_progress)
        sender = Sender(journal, uri)
        try:
            if folder.complete:
                record.take([("end", folder.last_metrics())])
                if not journal.ended:
                    # Whoever finished it died before saying so.
                    _conclude(journal, folder, run if register else None)
            else:
                job = TrainJob(config, roots, folder, journal, record, max_failures, previews)
                with (
                    stop_on_signals() as stop,
                    _told(journal, run, experiment, parent, config) as end,
                ):
                    # Ray starts with a handler of its own, which would end this process at once.
                    with connect(address) as cluster, stop_on_signals(stop):
                        if not stop.is_set():
                            job.run(cluster, count, cpus_per_worker, use_gpu, stop)
                    if record.samples_seen < config.samples:
                        end("KILLED")
                    elif register:
                        journal.model(folder.bundle, f"xnemo-{run}")
        finally:
            stopped = record.samples_seen < config.samples
            sender.close(_SEND_LIMIT_STOPPED_S if stopped else _SEND_LIMIT_S)
            journal.close()
    record.tell("done")
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


def _conclude(journal: Journal, folder: RunFolder, run: str | None) -> None:
    if run is not None:
        journal.model(folder.bundle, f"xnemo-{run}")
    journal.end("FINISHED")


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
    except SystemExit:
        # Ray Tune ends a trial that it has seen enough of in this way.
        status[0] = "KILLED"
        raise
    except BaseException:
        status[0] = "FAILED"
        raise
    finally:
        journal.end(status[0])


def _absolute(root: str) -> str:
    return root if "://" in root else str(Path(root).absolute())
