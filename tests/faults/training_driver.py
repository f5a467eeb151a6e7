"""A driver of its own: train the smallest run as `xnemo train` would, printing progress as JSON.

Usage: training_driver.py TASK, the task as JSON with data, run, out, workers, settings and, for a
cluster of two nodes on this machine, nodes: CPUs of each.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tiny_run import nano_config

from pipelines.run_record import TrainProgress
from pipelines.train import train
from preprocessing.errors import UserError


def say(**what: object) -> None:
    """Print one line of JSON."""
    print(json.dumps(what), flush=True)


def tell(progress: TrainProgress) -> None:
    """Print where the run is."""
    say(
        phase=progress.phase,
        seen=progress.samples_seen,
        message=progress.message,
        loss=progress.metrics.get("loss"),
    )


def main() -> None:
    """Train, on a cluster where asked to."""
    task = json.loads(sys.argv[1])
    cluster, address = None, None
    if "nodes" in task:
        from ray.cluster_utils import Cluster

        cluster = Cluster()
        for number, cpus in enumerate(task["nodes"]):
            cluster.add_node(num_cpus=cpus, resources={f"node{number}": 1})
        address = cluster.address
        say(address=address, nodes=len(task["nodes"]))
    try:
        result = train(
            nano_config(**task["settings"]),
            task["data"],
            task["run"],
            out=task["out"],
            workers=task["workers"],
            cpus_per_worker=task.get("cpus"),
            address=address,
            previews=False,
            on_progress=tell,
        )
    except UserError as error:
        say(error=str(error))
        sys.exit(2)
    finally:
        if cluster is not None:
            cluster.shutdown()
    say(done=True, seen=result.samples_seen, stopped=result.stopped, pid=os.getpid())


if __name__ == "__main__":
    main()
