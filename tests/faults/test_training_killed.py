"""Workers, drivers and nodes are killed; nothing is lost but what came after a checkpoint."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from moving_faces import write_dataset
from safetensors.torch import load_file

DRIVER = Path(__file__).resolve().parent / "support" / "training_driver.py"

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(2400)]


class Driver:
    """A training job in a process of its own, read line by line."""

    def __init__(self, **task: Any) -> None:
        # Ray gives its workers the lowest priority, and itself a minute to answer; a busy machine
        # would starve them and end the driver.
        environment = {
            **os.environ, "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", "RAY_worker_niceness": "0",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
        }  # fmt: skip
        environment.pop("RAY_ADDRESS", None)
        self.errors = Path(task["runs_dir"]).parent / f"{task['run']}.stderr"
        with self.errors.open("a") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(DRIVER), json.dumps(task)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )
        self.lines: list[dict[str, Any]] = []

    def __iter__(self) -> Iterator[dict[str, Any]]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                self.lines.append(json.loads(line))
                yield self.lines[-1]

    def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        for line in self:
            if wanted(line):
                return line
        pytest.fail(f"ended with {self.process.wait()} after {self.lines[-3:]}{self.stderr()}")

    def finish(self) -> dict[str, Any]:
        for _ in self:
            pass
        assert self.process.wait() in (0, 2), f"{self.lines[-3:]}{self.stderr()}"
        return self.lines[-1]

    def stderr(self) -> str:
        """The end of what went to stderr."""
        return "\n" + self.errors.read_text()[-3000:]

    def order(self, line: str) -> None:
        """Tell the driver what to do to its cluster."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def workers(self) -> list[psutil.Process]:
        """The processes that train, newest last."""
        return sorted(self.processes("RayTrainWorker"), key=lambda p: p.create_time())

    def processes(self, name: str) -> list[psutil.Process]:
        """The processes that the driver or its Ray started under a name."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [p for p in children if name in command_line(p)]


def command_line(process: psutil.Process) -> str:
    """The words of a process; none once it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("killed")


@pytest.fixture(scope="module")
def task(folder: Path) -> dict[str, Any]:
    settings = {
        "samples": 48,
        "checkpoint__every_samples": 8,
        "engine__kind": "deepspeed",
        "engine__zero_stage": 2,
    }
    data = str(write_dataset(folder / "faces"))
    return {"data": data, "runs_dir": str(folder / "runs"), "workers": 2, "settings": settings}


def weights(task: dict[str, Any], run: str) -> dict[str, torch.Tensor]:
    bundle = Path(task["runs_dir"]) / run / "bundle"
    raw = load_file(bundle / "raw.safetensors")
    return raw | {f"ema.{k}": v for k, v in load_file(bundle / "ema.safetensors").items()}


@pytest.fixture(scope="module")
def undisturbed(task: dict[str, Any]) -> dict[str, torch.Tensor]:
    assert Driver(**task, run="undisturbed").finish()["seen"] == 48
    return weights(task, "undisturbed")


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_a_killed_worker_is_replaced(task: dict[str, Any], undisturbed) -> None:
    driver = Driver(**task, run="worker")
    driver.until(lambda line: line.get("seen", 0) >= 16 and line["loss"] is not None)
    driver.workers()[-1].kill()
    resumed = driver.until(lambda line: "resumed at" in (line.get("message") or ""))
    assert resumed["seen"] >= 8
    assert driver.finish() | {"pid": 0} == {"done": True, "seen": 48, "stopped": False, "pid": 0}
    assert_same(weights(task, "worker"), undisturbed)


def test_a_killed_control_actor_costs_nothing(task: dict[str, Any], undisturbed) -> None:
    driver = Driver(**task, run="control_actor")
    for seen in (8, 24):
        driver.until(is_past(seen))
        (control_actor,) = driver.processes("ControlActor")
        control_actor.kill()
    assert driver.finish()["seen"] == 48
    assert not [line for line in driver.lines if line.get("phase") == "restarting"]
    assert_same(weights(task, "control_actor"), undisturbed)


def test_a_killed_driver_resumes_when_started_again(task: dict[str, Any], undisturbed) -> None:
    driver = Driver(**task, run="driver")
    driver.until(lambda line: "checkpoint" in (line.get("message") or ""))
    processes = [driver.process.pid, *(p.pid for p in driver.workers())]
    os.kill(driver.process.pid, signal.SIGKILL)
    driver.process.wait()
    _, alive = psutil.wait_procs(
        [psutil.Process(pid) for pid in processes if psutil.pid_exists(pid)], timeout=60
    )
    assert not alive, "workers outlive their driver"
    again = Driver(**task, run="driver")
    again.until(lambda line: "resumed at" in (line.get("message") or ""))
    assert again.finish()["seen"] == 48
    assert_same(weights(task, "driver"), undisturbed)


def test_sigterm_saves_and_ends_in_order(task: dict[str, Any], undisturbed) -> None:
    driver = Driver(**task, run="sigterm")
    driver.until(lambda line: line.get("seen", 0) >= 4 and line["loss"] is not None)
    driver.process.send_signal(signal.SIGTERM)
    end = driver.finish()
    assert end["stopped"]
    assert driver.process.returncode == 0
    assert any(line.get("phase") == "stopping" for line in driver.lines)
    again = Driver(**task, run="sigterm")
    resumed = again.until(lambda line: "resumed at" in (line.get("message") or ""))
    assert resumed["seen"] == end["seen"], "the stop itself saved a checkpoint"
    assert again.finish()["seen"] == 48
    assert_same(weights(task, "sigterm"), undisturbed)


def test_sigterm_ends_the_wait_for_workers(task: dict[str, Any]) -> None:
    """Two workers ask for two CPUs, and the cluster has one: there is nothing to be saved."""
    driver = Driver(**task, run="waiting", nodes=[1])
    driver.until(lambda line: line.get("phase") == "starting")
    driver.process.send_signal(signal.SIGTERM)
    end = driver.finish()
    assert driver.process.returncode == 0
    assert (end["stopped"], end["seen"]) == (True, 0)


def test_a_run_being_trained_is_refused_to_a_second_driver(task: dict[str, Any]) -> None:
    first = Driver(**task, run="twice")
    first.until(lambda line: line.get("phase") == "starting")
    second = Driver(**task, run="twice").finish()
    assert "is being trained by another process" in second["error"]
    first.process.send_signal(signal.SIGTERM)
    first.finish()


def test_two_nodes_train_to_the_same_bits(task: dict[str, Any], undisturbed) -> None:
    driver = Driver(**task, run="nodes", nodes=[1, 1])
    assert driver.finish()["seen"] == 48
    assert_same(weights(task, "nodes"), undisturbed)


def is_past(samples: int) -> Callable[[dict[str, Any]], bool]:
    return lambda line: line.get("seen", 0) >= samples and line["loss"] is not None


def test_a_killed_node_is_replaced_by_another(task: dict[str, Any], undisturbed) -> None:
    driver = Driver(**task, run="node", nodes=[1, 1, 1])
    driver.until(is_past(16))
    driver.order("remove")
    driver.until(lambda line: "resumed at" in (line.get("message") or ""))
    assert driver.finish()["seen"] == 48
    assert_same(weights(task, "node"), undisturbed)


def test_a_node_being_taken_away_saves_first(task: dict[str, Any], undisturbed) -> None:
    driver = Driver(**task, run="drain", nodes=[1, 1, 1])
    driver.until(is_past(12))
    driver.order("drain")
    resumed = driver.until(lambda line: "resumed at" in (line.get("message") or ""))
    before = [line for line in driver.lines if "checkpoint" in (line.get("message") or "")]
    assert resumed["seen"] == before[-1]["seen"], "nothing is lost when there is time to save"
    assert driver.finish()["seen"] == 48
    assert_same(weights(task, "drain"), undisturbed)


def test_an_elastic_run_shrinks_and_continues(task: dict[str, Any]) -> None:
    driver = Driver(**{**task, "workers": "1:2"}, run="elastic", nodes=[1, 1])
    driver.until(is_past(16))
    driver.order("remove")
    assert driver.finish()["seen"] == 48
    words = [line["message"] for line in driver.lines if "on cpu" in (line.get("message") or "")]
    assert words[0].startswith("2 workers")
    assert words[-1].startswith("1 worker ")
    resumed = next(
        n for n in (line.get("message") or "" for line in driver.lines) if "resumed" in n
    )
    assert int(resumed.split()[-1]) >= 8


def test_an_elastic_run_grows_when_a_node_comes(task: dict[str, Any]) -> None:
    # However fast the machine, the node comes before the run is over.
    settings = {**task["settings"], "samples": 1_000_000, "checkpoint__every_samples": 40}
    driver = Driver(
        **{**task, "workers": "1:2", "settings": settings},
        run="grown", nodes=[1], grow_every_s=2.0,
    )  # fmt: skip
    driver.until(is_past(100))
    driver.order("add")
    grown = driver.until(lambda line: (line.get("message") or "").startswith("2 workers"))
    driver.until(is_past(grown["seen"] + 20))
    driver.process.send_signal(signal.SIGTERM)
    end = driver.finish()
    assert end["stopped"]
    starts = [line["message"] for line in driver.lines if "on cpu" in (line.get("message") or "")]
    assert starts[0].startswith("1 worker ")
    assert starts[-1].startswith("2 workers")
    log = [json.loads(x) for x in (Path(task["runs_dir"]) / "grown" / "log.jsonl").open()]
    steps = [line["samples_seen"] for line in log if "loss" in line]
    # Every step is there, those after the last checkpoint on one worker once more on two.
    assert sorted(set(steps)) == list(range(4, end["seen"] + 1, 4))
    assert len(steps) - len(set(steps)) <= 10
