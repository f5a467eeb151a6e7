"""One worker of a group: train the scenarios of a task, one after the other.

Usage: train_worker.py RANK WORLD TASK, the task as JSON with data, store and runs.
"""

import json
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.distributed as dist
from tiny_run import nano_config

from xnemo.train.loop import run_training


class KillAt:
    """Kill this process, as a preempted machine would, once a sample is reached."""

    def __init__(self, samples: int) -> None:
        self.samples = samples

    def on_log(self, record: dict) -> None:
        """Count; there is no clean-up after SIGKILL."""
        if "loss" in record and record["samples_seen"] >= self.samples:
            os.kill(os.getpid(), signal.SIGKILL)

    def __getattr__(self, name: str):
        return lambda *arguments: None


def main() -> None:
    """Join the group and train."""
    rank, world, task = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{task['store']}",
            rank=rank,
            world_size=world,
            timeout=timedelta(seconds=120),
        )
    for folder, changes in task["runs"]:
        kill = changes.pop("kill_at", None)
        stop = changes.pop("stop_at", None)
        seen = [0]

        def should_stop(stop: int | None = stop, seen: list[int] = seen) -> bool:
            seen[0] += 1
            return seen[0] == stop

        run_training(
            nano_config(**changes),
            task["data"],
            folder,
            callbacks=[KillAt(kill)] if kill else [],
            should_stop=should_stop,
        )
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
