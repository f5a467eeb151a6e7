"""Function that every worker of a training job runs under Ray Train."""

import logging
import os
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pipelines.cluster.metrics import record as export
from preprocessing.errors import Diverged, UserError
from xnemo.config import from_dict

if TYPE_CHECKING:
    # Ray's controller imports this module and needs no torch.
    from xnemo.training.config import TrainConfig

_log = logging.getLogger(__name__)

#: File in the run folder: id of the workers' placement group, while they train. The process of a
#: trial that Ray Tune stops cannot release it; see `pipelines.tune.launch`.
PLACEMENT_FILE = ".placement"

# Seconds between two polls of the control actor.
_POLL_EVERY_S = 2.0


class Preempted(Exception):  # noqa: N818 - not an error: the run continues on another machine
    """This worker saved a checkpoint because its machine is being taken away."""


def run_worker(job: dict[str, Any]) -> dict[str, Any] | None:
    """Train as one worker and return the last metrics.

    Args:
        job: ``config`` (as plain data), ``data`` (roots), ``run_dir``, ``control_actor``, ``cwd``,
            ``token`` (name of a file in the run folder) and ``pause_every``.

    Raises:
        UserError: the input can never work.
        Preempted: the machine is being taken away and a checkpoint is saved.
    """
    import ray

    actor = job["control_actor"]
    if ray.get(actor.refused.remote()):
        # Ray restarts failed workers, which is useless after a refusal.
        return None
    rank = ray.train.get_context().get_world_rank()
    if os.path.isdir(job["cwd"]):
        os.chdir(job["cwd"])
    forwarder = _LogForwarder(actor, rank)
    logging.getLogger().addHandler(forwarder)
    stop = StopSignal(actor)
    try:
        return _train(job, stop, rank)
    except UserError as error:
        body = {"what": error.what, "remedy": error.remedy, "diverged": isinstance(error, Diverged)}
        ray.get(actor.post.remote("refused", body))
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
        ray.get(actor.post.remote("failed", body))
        raise
    finally:
        stop.close()
        logging.getLogger().removeHandler(forwarder)


def _train(job: dict[str, Any], stop: "StopSignal", rank: int) -> dict[str, Any]:
    import ray
    import torch

    run_dir, every = Path(job["run_dir"]), job["pause_every"]

    # Ray sets the CPUs of a worker; the default of torch is all of the machine.
    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    if not (run_dir / job["token"]).exists():
        raise UserError(
            f"the run folder {run_dir} does not exist on node {os.uname().nodename}",
            "set --runs-dir to a folder that all nodes of the cluster share",
        )
    group = ray.util.get_current_placement_group()
    if rank == 0 and group is not None:
        (run_dir / PLACEMENT_FILE).write_text(group.id.hex())
    from xnemo.training.config import TrainConfig
    from xnemo.training.loop import run_training

    if torch.cuda.is_available():
        from ray.train.torch import get_device

        torch.cuda.set_device(get_device())
    metrics = run_training(
        from_dict(TrainConfig, job["config"]),
        job["data"],
        run_dir,
        callbacks=[ProgressCallback(job["control_actor"]), PrometheusCallback(run_dir)],
        should_stop=stop.is_set,
        write_log=False,
        pause_every=every,
    )
    paused = every is not None and metrics["samples_seen"] % every < job["config"]["global_batch"]
    if metrics.get("stopped") and not paused and not stop.requested():
        raise Preempted(f"checkpoint saved at sample {metrics['samples_seen']}")
    return dict(metrics)


class ProgressCallback:
    """Training callback that forwards every event to the driver without waiting."""

    def __init__(self, actor: Any) -> None:
        """Post to ``actor``."""
        self._actor = actor

    def on_start(self, config: "TrainConfig", facts: Mapping[str, Any]) -> None:
        """Send the facts about the run."""
        self._send("start", facts)

    def on_log(self, record: Mapping[str, Any]) -> None:
        """Send a line of the run log, with the load of the machine."""
        load = {} if "event" in record else _machine_load()
        self._send("log", {"time": time.time(), **record, **load})

    def on_validation(self, record: Mapping[str, Any]) -> None:
        """Send held-out losses."""
        self._send("validation", {"time": time.time(), **record})

    def on_checkpoint(self, folder: Path, record: Mapping[str, Any]) -> None:
        """Send the folder of a checkpoint."""
        self._send("checkpoint", {"folder": str(folder), **record})

    def on_end(self, metrics: Mapping[str, Any]) -> None:
        """Send the last metrics."""
        self._send("end", metrics)

    def _send(self, kind: str, body: Mapping[str, Any]) -> None:
        self._actor.post.remote(kind, dict(body))


class PrometheusCallback:
    """Training callback that exports the run's measurements through Ray."""

    # Measurements of the run log, by name there, and the factor to the exported unit.
    _EXPORTED: ClassVar = {
        "samples_seen": ("xnemo_samples_seen", 1),
        "samples_per_s": ("xnemo_samples_per_second", 1),
        "data_wait_pct": ("xnemo_data_wait_percent", 1),
        "loss": ("xnemo_loss", 1),
        "latent_std": ("xnemo_latent_std", 1),
        "peak_memory_gb": ("xnemo_peak_memory_bytes", 1e9),
    }

    def __init__(self, run_dir: Path) -> None:
        """Label measurements by the run's folder and the one above it: trials have equal names."""
        self._run = "/".join(run_dir.parts[-2:])

    def on_start(self, config: "TrainConfig", facts: Mapping[str, Any]) -> None:
        """Export that the run trains."""
        self._export("xnemo_training", 1)

    def on_log(self, record: Mapping[str, Any]) -> None:
        """Export the measurements of a line of the run log."""
        for name, (exported, factor) in self._EXPORTED.items():
            if name in record:
                self._export(exported, factor * record[name])

    def on_validation(self, record: Mapping[str, Any]) -> None:
        """Export nothing: MLflow has these curves."""

    def on_checkpoint(self, folder: Path, record: Mapping[str, Any]) -> None:
        """Export the time."""
        self._export("xnemo_checkpoint_timestamp_seconds", time.time())

    def on_end(self, metrics: Mapping[str, Any]) -> None:
        """Export that the run does not train any more."""
        self._export("xnemo_training", 0)

    def _export(self, name: str, value: float) -> None:
        export(name, value, run=self._run)


class StopSignal:
    """Flag that this worker has to save a checkpoint and end, kept by a background thread."""

    def __init__(self, actor: Any) -> None:
        """Start to poll ``actor`` and Ray."""
        self._actor = actor
        self._set = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="stop-signal", daemon=True)
        self._thread.start()

    def is_set(self) -> bool:
        """Return whether to save a checkpoint and end."""
        return self._set.is_set()

    def requested(self) -> bool:
        """Return whether the driver requests the stop."""
        import ray

        return bool(ray.get(self._actor.stop_requested.remote()))

    def close(self) -> None:
        """Stop polling."""
        self._closed.set()

    def _poll(self) -> None:
        from ray.exceptions import RayError

        while not self._closed.wait(_POLL_EVERY_S):
            try:
                requested = self.requested()
            except RayError as error:
                # A dead driver is noticed elsewhere; this thread has to detect preemption.
                _log.debug("cannot poll the control actor: %s", error)
                requested = False
            if requested or _node_is_draining():
                self._set.set()
                return


def _node_is_draining() -> bool:
    """Return whether a machine of this group of workers is being taken away.

    The public `ray.train.get_preemption_info` is a barrier over all workers. The training loop
    agrees on stopping by itself and needs the local answer only.
    """
    from ray.train.v2._internal.execution.context import get_train_context

    return get_train_context().preemption_context.preemption_info is not None


class _LogForwarder(logging.Handler):
    """Forwards this project's warnings and errors to the driver; other logs stay in Ray's files."""

    def __init__(self, actor: Any, rank: int) -> None:
        super().__init__(logging.WARNING)
        self._actor, self._rank = actor, rank

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        if record.name.split(".")[0] in ("xnemo", "preprocessing", "pipelines"):
            body = {"rank": self._rank, "level": record.levelno, "text": record.getMessage()}
            self._actor.post.remote("warning", body)


def _machine_load() -> dict[str, float]:
    """Return the load of this machine under MLflow's names."""
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
