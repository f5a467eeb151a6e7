"""What every worker of a training job runs, under Ray Train."""

import logging
import os
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.cluster.batch_scheduling import leave_batch
from pipelines.cluster.placement import note_placement
from preprocessing.errors import UserError
from xnemo.config import from_dict

if TYPE_CHECKING:
    # Ray's controller reads this module too, and has no use for the seconds that torch takes.
    from xnemo.training.config import TrainConfig

log = logging.getLogger(__name__)

# How often a worker asks whether it is to stop, in seconds.
_ASK_EVERY_S = 2.0


class Preempted(Exception):  # noqa: N818 - no error: the machine goes, the run goes on elsewhere
    """This worker saved a checkpoint because its machine is being taken away."""


def run_worker(job: dict[str, Any]) -> dict[str, Any] | None:
    """Train as one worker and return the last metrics.

    Args:
        job: ``config`` (as plain data), ``data`` (roots), ``run_dir``, ``control_actor``, ``cwd``
            and ``token`` (name of a file in the run's folder).

    Raises:
        UserError: input that can never work.
        Preempted: the machine is being taken away; a checkpoint was saved.
    """
    import ray

    control_actor = job["control_actor"]
    if ray.get(control_actor.refused.remote()):
        # Ray starts a failed group again; after a refusal the driver is only waiting for the end.
        return None
    context = ray.train.get_context()
    rank = context.get_world_rank()
    _enter(job["cwd"])
    forwarder = _Forwarder(control_actor, rank)
    logging.getLogger().addHandler(forwarder)
    stop = StopSignal(control_actor)
    try:
        return _train(job, stop, rank)
    except UserError as error:
        ray.get(control_actor.post.remote("refused", {"what": error.what, "remedy": error.remedy}))
        raise
    except Preempted:
        raise
    except BaseException as error:
        body = {
            "rank": rank,
            "node": ray.util.get_node_ip_address(),
            "error": traceback.format_exception_only(error)[-1].strip(),
            "traceback": traceback.format_exc(),
        }
        ray.get(control_actor.post.remote("failed", body))
        raise
    finally:
        stop.close()
        logging.getLogger().removeHandler(forwarder)


def _train(job: dict[str, Any], stop: "StopSignal", rank: int) -> dict[str, Any]:
    import torch

    run_dir = Path(job["run_dir"])

    # Ray says how many CPUs a worker has; torch would take the machine's.
    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    if not (run_dir / job["token"]).exists():
        raise UserError(
            f"the run's folder {run_dir} is not there on node {os.uname().nodename}",
            "give --runs-dir a folder that all nodes of the cluster share",
        )
    if rank == 0:
        note_placement(run_dir)
    from xnemo.training.config import TrainConfig
    from xnemo.training.loop import run_training

    if torch.cuda.is_available():
        from ray.train.torch import get_device

        torch.cuda.set_device(get_device())
        leave_batch()
    metrics = run_training(
        from_dict(TrainConfig, job["config"]),
        job["data"],
        run_dir,
        callbacks=[ProgressCallback(job["control_actor"])],
        should_stop=stop.is_set,
    )
    if metrics.get("stopped") and not stop.asked_by_driver():
        raise Preempted(f"checkpoint saved at sample {metrics['samples_seen']}")
    return dict(metrics)


class ProgressCallback:
    """Tells the driver what the main worker tells its callbacks; never waits for an answer."""

    def __init__(self, control_actor: Any) -> None:
        """Post to ``control_actor``."""
        self._control_actor = control_actor

    def on_start(self, config: "TrainConfig", facts: Mapping[str, Any]) -> None:
        """Send what identifies the run."""
        self._send("start", facts)

    def on_log(self, record: Mapping[str, Any]) -> None:
        """Send a line of the log, with the machine's load."""
        self._send("log", {**record, **_machine_load()} if "event" not in record else record)

    def on_validation(self, record: Mapping[str, Any]) -> None:
        """Send held-out losses."""
        self._send("validation", record)

    def on_checkpoint(self, folder: Path, record: Mapping[str, Any]) -> None:
        """Send where a checkpoint is."""
        self._send("checkpoint", {"folder": str(folder), **record})

    def on_end(self, metrics: Mapping[str, Any]) -> None:
        """Send the last metrics."""
        self._send("end", metrics)

    def _send(self, kind: str, body: Mapping[str, Any]) -> None:
        self._control_actor.post.remote(kind, dict(body))


class StopSignal:
    """Knows, without a collective or a wait, whether this worker is to save and end."""

    def __init__(self, control_actor: Any) -> None:
        """Begin to ask ``control_actor`` and Ray in the background."""
        self._control_actor = control_actor
        self._set = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="stop-signal", daemon=True)
        self._thread.start()

    def is_set(self) -> bool:
        """Say whether to save a checkpoint and end."""
        return self._set.is_set()

    def asked_by_driver(self) -> bool:
        """Say whether the person or the scheduler of the driver wants the run to end."""
        import ray

        return bool(ray.get(self._control_actor.stop_requested.remote()))

    def close(self) -> None:
        """Stop asking."""
        self._over.set()

    def _ask(self) -> None:
        from ray.exceptions import RayError

        while not self._over.wait(_ASK_EVERY_S):
            try:
                asked = self.asked_by_driver()
            except RayError as error:
                # A driver that is gone for good is noticed elsewhere; this thread must live to hear
                # of a machine that is taken away.
                log.debug("the driver cannot be asked just now: %s", error)
                asked = False
            if asked or _node_is_draining():
                self._set.set()
                return


def _node_is_draining() -> bool:
    """Say whether Ray told this worker that a machine of the group is going away.

    Ray's public question, `ray.train.get_preemption_info`, makes all workers wait for each other;
    the training loop agrees on stopping by itself, so only the local answer is wanted here.
    """
    from ray.train.v2._internal.execution.context import get_train_context

    return get_train_context().preemption_context.preemption_info is not None


class _Forwarder(logging.Handler):
    """Shows a worker's warnings and errors where the person looks."""

    def __init__(self, control_actor: Any, rank: int) -> None:
        super().__init__(logging.WARNING)
        self._control_actor, self._rank = control_actor, rank

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record of our own packages; libraries' chatter stays in Ray's files."""
        if record.name.split(".")[0] in ("xnemo", "preprocessing", "pipelines"):
            body = {"rank": self._rank, "level": record.levelno, "text": record.getMessage()}
            self._control_actor.post.remote("warning", body)


def _machine_load() -> dict[str, float]:
    """Return the load of the main worker's machine under MLflow's names for it."""
    import psutil
    import torch

    load = {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_percentage": psutil.virtual_memory().percent,
    }
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        load["system/gpu_memory_usage_percentage"] = 100 * (1 - free / total)
    return load


def _enter(folder: str) -> None:
    """Go where the driver is, so that relative paths in the settings mean the same."""
    if os.path.isdir(folder):
        os.chdir(folder)
