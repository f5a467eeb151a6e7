"""One worker of a group: train the scenarios of a task, one after the other.

Usage: train_worker.py RANK WORLD TASK, the task as JSON with data, store and runs.
"""

import json
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

import torch
import torch.distributed as dist
from tiny_run import nano_config

from xnemo.data.batch import Batch
from xnemo.training import step
from xnemo.training.loop import run_training
from xnemo.training.step_inputs import StepInputs


class Passes:
    """Stand before every forward pass: note its samples, and kill the process when told to."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.prepare = step.prepare_inputs
        self.begin(None, None)

    def begin(self, folder: str | None, kill_at: int | None) -> None:
        """Start a scenario."""
        self.file = Path(folder) / f"samples_worker{self.rank}.jsonl" if folder else None
        if self.file is not None:
            # The main worker makes it too, perhaps after another's first sample.
            self.file.parent.mkdir(parents=True, exist_ok=True)
        self.kill_at, self.count = kill_at, 0

    def __call__(self, batch: Batch, *arguments: Any, **options: Any) -> StepInputs:
        """Do what `prepare_inputs` does."""
        if self.count == self.kill_at:
            # As a preempted machine would: there is no clean-up after SIGKILL.
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1
        if self.file is not None:
            with self.file.open("a") as file:
                file.write(json.dumps([batch.sample_index_B.tolist(), batch.keys]) + "\n")
        return self.prepare(batch, *arguments, **options)


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
    passes = Passes(rank)
    step.prepare_inputs = passes
    for folder, changes in task["runs"]:
        passes.begin(folder, changes.pop("kill_at", None))
        stop = changes.pop("stop_at", None)
        seen = [0]

        def should_stop(stop: int | None = stop, seen: list[int] = seen) -> bool:
            seen[0] += 1
            return seen[0] == stop

        run_training(
            nano_config(**changes),
            task["data"],
            folder,
            should_stop=should_stop,
        )
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
