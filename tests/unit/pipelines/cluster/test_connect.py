"""Connections to Ray: joined, started and left as requested; errors take one line."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from ray_cluster import two_nodes

from pipelines.cluster.connect import Cluster, _set_short_temp_dir, connect
from pipelines.cluster.resources import (
    WorkerCount,
    parse_workers,
    resources_per_worker,
    uses_gpu,
)
from preprocessing.errors import UserError


@pytest.fixture
def ray_out_of_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the Ray that this session may run, and keep it from being shut down."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1"),
        ("nohost.invalid:6379", "no Ray cluster answers"),
        ("somewhere", "is not an address"),
        ("host:port", "is not an address"),
        ("ray://127.0.0.1:10001", "is not an address"),
        ("127.0.0.1:99999", "is not an address"),
    ],
)
def test_a_bad_address_fails_at_once_and_in_one_line(
    ray_out_of_sight: None, address: str, message: str
) -> None:
    with pytest.raises(UserError) as refusal, connect(address):
        pass
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_start_of_ray_that_times_out_is_retried(
    ray_out_of_sight: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def init(**options: object) -> None:
        tries.append(options)
        raise Exception("The current node timed out during startup. This could happen\nbecause")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(UserError, match="Ray does not start on this machine") as refusal, connect():
        pass
    assert len(tries) == 3
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("variables", "used"),
    [
        ({"TMPDIR": "/scratch"}, None),
        ({"TMPDIR": "/scratch/" + 60 * "x"}, "/tmp"),
        ({"TMPDIR": "/scratch/" + 60 * "x", "RAY_TMPDIR": "/r"}, "/r"),
    ],
)
def test_a_long_folder_for_temporary_files_is_avoided(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], used: str | None
) -> None:
    monkeypatch.setattr(os, "environ", variables)
    _set_short_temp_dir()
    assert os.environ.get("RAY_TMPDIR") == used


@pytest.mark.parametrize(
    "variables", [{"RAY_TMPDIR": "/scratch/" + 60 * "x"}, {"TMPDIR": "/scratch/" + 60 * "x"}]
)
def test_a_long_folder_that_cannot_be_avoided_is_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    monkeypatch.setattr(os, "environ", variables)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match="TMPDIR is too long for Ray's sockets; set RAY_TMPDIR to"):
        _set_short_temp_dir()


UNDER_UV = """
import os, sys
from pipelines.cluster.connect import connect
with connect(None, 1):
    import ray
    print(ray.get(ray.remote(os.getcwd).remote()))
"""


@pytest.mark.slow
@pytest.mark.ray
def test_ray_starts_under_uv_run_and_with_a_long_tmpdir(tmp_path: Path) -> None:
    # Ray looks for an ancestor called `uv run`, and would let its workers run in a copy.
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    (folder / "run").write_text(
        "import subprocess, sys; sys.exit(subprocess.call([sys.argv[1], '-c', sys.argv[2]]))"
    )
    done = subprocess.run(
        ["bash", "-c", 'exec -a uv "$0" run "$0" "$1"', sys.executable, UNDER_UV],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.stdout.strip() == str(folder), done.stderr


@pytest.mark.ray
def test_a_ray_that_runs_is_used_and_left_running(ray_local: None) -> None:
    with connect(num_cpus=64) as cluster:
        assert (cluster.cpus, cluster.owned) == (2.0, False)
    assert ray.is_initialized()
    # The token of a private Ray is in the environment of this process only.
    assert os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_MODE")


@pytest.mark.parametrize(("text", "count"), [("1", (1, 1)), (3, (3, 3)), ("2:8", (2, 8))])
def test_workers_are_read(text: str | int, count: tuple[int, int]) -> None:
    assert parse_workers(text) == WorkerCount(*count)
    assert parse_workers(text).elastic == (count[0] < count[1])


@pytest.mark.parametrize("text", ["0", "-1", "4:2", "0:2", "two", "1:", "1:2:3", ""])
def test_an_invalid_number_of_workers_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="write a number, or MIN:MAX"):
        parse_workers(text)


def test_workers_share_a_private_ray_and_reserve_a_little_of_a_cluster() -> None:
    private = Cluster("local", cpus=4, gpus=0, nodes=1, owned=True)
    joined = Cluster("10.0.0.1:6379", cpus=64, gpus=8, nodes=4, owned=True)
    two = WorkerCount(2, 2)
    assert resources_per_worker(two, private, None, gpu=False) == {"CPU": 2}
    assert resources_per_worker(WorkerCount(8, 8), private, None, gpu=False) == {"CPU": 0.5}
    assert resources_per_worker(two, joined, None, gpu=False) == {"CPU": 1}
    assert resources_per_worker(two, joined, None, gpu=True) == {"CPU": 4, "GPU": 1}
    with pytest.raises(UserError, match="2 workers need 2 GPUs and this machine has 0"):
        resources_per_worker(two, private, None, gpu=True)
    with pytest.raises(UserError, match="need 6 CPUs and this machine has 4"):
        resources_per_worker(two, private, 3, gpu=False)
    with pytest.raises(UserError, match=r"9 workers need 9 GPUs and the cluster at 10\.0\.0\.1"):
        resources_per_worker(WorkerCount(9, 9), joined, None, gpu=True)
    assert resources_per_worker(WorkerCount(2, 9), joined, None, gpu=True)
    # Nodes may come for as many as are asked for.
    growing = replace(joined, gpus=0, grows=True)
    assert resources_per_worker(WorkerCount(9, 9), growing, None, gpu=True)["GPU"] == 1
    assert [uses_gpu(device, growing) for device in ("cpu", "auto", "cuda")] == [False, False, True]
    assert [uses_gpu(device, joined) for device in ("cpu", "auto", "cuda")] == [False, True, True]
    with pytest.raises(UserError, match="set it to a positive number"):
        resources_per_worker(two, private, 0, gpu=False)


@pytest.mark.ray
def test_workers_come_up_where_the_interpreter_lies_in_a_path_with_a_space(tmp_path: Path) -> None:
    folder = tmp_path / "my projects"
    folder.symlink_to(sys.prefix)
    # A worker with a runtime environment of its own is started through a shell.
    script = """
import ray
from pipelines.cluster.connect import connect
with connect(num_cpus=1):
    task = ray.remote(num_cpus=0, runtime_env={"env_vars": {"XNEMO_SEEN": "yes"}})
    print(ray.get(task(lambda: __import__("os").environ["XNEMO_SEEN"]).remote(), timeout=60))
"""
    python = folder / "bin" / "python"
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "yes", done.stderr


# Joins a cluster and calls an actor on it, for which the cluster must reach this process.
_JOIN = """
import sys, ray
from pipelines.cluster.connect import connect
from pipelines.train.control_actor import start_control_actor
with connect(sys.argv[1]) as cluster:
    print(cluster.nodes, ray.get(start_control_actor().fetch.remote()))
"""


@pytest.mark.ray
@pytest.mark.parametrize("guarded", [True, False])
def test_a_token_in_the_home_folder_is_for_clusters_that_require_one(
    tmp_path: Path, guarded: bool
) -> None:
    with two_nodes(guarded=guarded) as cluster:
        # Ray writes one to the home folder of a user who starts it.
        token = cluster.environment.get("RAY_AUTH_TOKEN", "ab" * 32)
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text(token)
        person = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        joined = subprocess.run(
            [sys.executable, "-c", _JOIN, cluster.address],
            capture_output=True, text=True, timeout=120, env={**person, "HOME": str(tmp_path)},
        )  # fmt: skip
    assert joined.stdout.strip() == "2 []", joined.stderr
    assert joined.stderr == ""
