"""Number of workers of a job, and the resources of each."""

import math
from dataclasses import dataclass

from pipelines.cluster.connect import Cluster
from preprocessing.errors import UserError


@dataclass(frozen=True)
class WorkerCount:
    """Least and most workers of a job; equal if the number is fixed."""

    least: int
    most: int

    @property
    def elastic(self) -> bool:
        """Whether the job may shrink and grow."""
        return self.least < self.most


def parse_workers(text: str | int) -> WorkerCount:
    """Parse ``"4"`` or ``"2:8"``.

    Raises:
        UserError: it is neither.
    """
    least, colon, most = str(text).partition(":")
    try:
        count = WorkerCount(int(least), int(most) if colon else int(least))
    except ValueError:
        count = WorkerCount(0, 0)
    if not 1 <= count.least <= count.most:
        raise UserError(f"workers is {text!r}", "write a number, or MIN:MAX as in 2:8")
    return count


def uses_gpu(device: str, cluster: Cluster) -> bool:
    """Return whether workers get a GPU each.

    Args:
        device: "cpu", "cuda", or "auto": if the cluster has any now.
        cluster: where they run; "cuda" may wait for nodes that join later.
    """
    return device == "cuda" or (device == "auto" and cluster.gpus > 0)


def resources_per_worker(
    count: WorkerCount, cluster: Cluster, cpus: float | None, gpu: bool
) -> dict[str, float]:
    """Return what one worker reserves.

    By default, workers of a private Ray share its CPUs evenly. On a cluster a worker reserves one
    CPU, or four beside a GPU, for its decoding threads.

    Raises:
        UserError: Ray is too small for the least number of workers and cannot grow.
    """
    if cpus is not None and cpus <= 0:
        raise UserError(f"cpus per worker is {cpus}", "set it to a positive number")
    private = cluster.address == "local"
    if cpus is not None:
        share = cpus
    elif private:
        share = cluster.cpus / count.most
        share = math.floor(share) if share >= 1 else math.floor(100 * share) / 100
    else:
        share = 4.0 if gpu else 1.0
    resources = {"CPU": float(share)} | ({"GPU": 1.0} if gpu else {})
    for name, amount in resources.items():
        have = cluster.cpus if name == "CPU" else cluster.gpus
        if not cluster.grows and amount * count.least > have + 1e-6:
            where = "this machine" if private else f"the cluster at {cluster.address}"
            raise UserError(
                f"{count.least} workers need {amount * count.least:g} {name}s and {where} has "
                f"{have:g}",
                "use fewer workers or fewer CPUs each, or join a cluster with --address"
                if private
                else "use fewer workers, or add nodes first; MIN:MAX workers wait for MIN only",
            )
    return resources
