"""A driver of its own: train the smallest run as `xnemo train` would, printing progress as JSON.

Usage: training_driver.py TASK, the task as JSON with data, run, runs_dir, workers, settings and,
for a cluster of several nodes on this machine, nodes: CPUs of each. It executes lines on stdin:
"remove" kills a node with a worker, other than the first, "drain" announces that it will go, and
"add" starts one more with one CPU.
"""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))

import psutil
from tiny_run import nano_config

from pipelines.train import launch as train_job
from pipelines.train.job import train
from pipelines.train.progress import TrainProgress
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


def has_worker(node: Any) -> bool:
    """Say whether a training worker lives on a node."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return any("RayTrainWorker" in " ".join(p.cmdline()) for p in raylet.children(recursive=True))


def obey(cluster: Any, nodes: list[Any]) -> None:
    """Do to the cluster's nodes what stdin says."""
    import ray

    for line in sys.stdin:
        order = line.strip()
        if order == "add":
            # Its handler of signals can be set from the main thread alone; the end stops it too.
            cluster._shutdown_at_exit = False
            nodes.append(cluster.add_node(num_cpus=1))
            say(did=order, node=len(nodes) - 1)
            continue
        # The driver lives on some node of this machine, and would go with it.
        own = ray.get_runtime_context().get_node_id()
        number, node = next(
            (n, x) for n, x in enumerate(nodes) if n and x.node_id != own and has_worker(x)
        )
        if order == "remove":
            cluster.remove_node(node, allow_graceful=False)
        else:
            command = Path(sys.executable).with_name("ray")
            options = {
                "address": cluster.address,
                "node-id": node.node_id,
                "reason": "DRAIN_NODE_REASON_PREEMPTION",
                "reason-message": "taken away",
                "deadline-remaining-seconds": 120,
            }
            words = [f"--{name}={value}" for name, value in options.items()]
            subprocess.run([command, "drain-node", *words], check=True, stdout=subprocess.DEVNULL)
        say(did=order, node=number)


def main() -> None:
    """Train, on a cluster where asked to."""
    task = json.loads(sys.argv[1])
    cluster, address = None, None
    if "grow_every_s" in task:
        train_job._GROW_EVERY_S = task["grow_every_s"]
    if "nodes" in task:
        from ray.cluster_utils import Cluster

        cluster = Cluster()
        nodes = [cluster.add_node(num_cpus=cpus) for cpus in task["nodes"]]
        address = cluster.address
        threading.Thread(target=obey, args=(cluster, nodes), daemon=True).start()
        say(address=address, nodes=len(task["nodes"]))
    try:
        result = train(
            nano_config(**task["settings"]),
            task["data"],
            task["run"],
            runs_dir=task["runs_dir"],
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
