"""kill -9, of the driver, of workers and in the middle of writing: the bytes come out the same."""

import os
import random
import signal
import time

import psutil
import pytest
from footage import astronaut_footage
from job_process import published, run_job, start_job
from writing import encode

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Three videos, and what an undisturbed run makes of them."""
    root = tmp_path_factory.mktemp("killed")
    (root / "videos").mkdir()
    for seed in range(4):
        encode(root / "videos" / f"{seed}.mp4", astronaut_footage(seed, 60 + 20 * seed, 256, 256))
    began = time.monotonic()
    run_job(root / "videos", root / "whole", "shard.size_mb=1")
    return root / "videos", published(root / "whole"), time.monotonic() - began


def kill_family(process):
    """Kill the driver and all it started, at once."""
    family = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    for child in family:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()


def kill_a_worker(process, rng):
    """Kill one of the processes that decode, or the process of the task it belongs to."""
    while process.poll() is None:
        workers = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if _is_worker(child)
        ]
        if workers:
            rng.choice(sorted(workers, key=lambda child: child.pid)).kill()
            return
        time.sleep(0.05)


def _is_worker(child):
    try:
        line = " ".join(child.cmdline())
    except psutil.Error:
        return False
    return "sandbox.child" in line or "ray::Map" in line


def check_visible_files(out):
    """Whatever is visible under its final name is whole, at any moment."""
    import tarfile

    for shard in out.glob("shards/*.tar"):
        with tarfile.open(shard) as archive:
            assert archive.getnames()
    for output in out.glob("_work/chunks/*/*.tar"):
        with tarfile.open(output) as archive:
            assert archive.getnames()[0] == "chunk.json"


def disturb(videos, out, seed, seconds, what):
    rng = random.Random(seed)
    process = start_job(videos, out, "shard.size_mb=1")
    try:
        if what == "driver":
            time.sleep(rng.uniform(0.3, 1.0) * seconds)
        else:
            # Wait for the workers, then a little.
            for line in process.stdout:
                if line.startswith("progress process"):
                    break
            time.sleep(rng.uniform(0, 0.5) * seconds)
            kill_a_worker(process, rng)
            process.communicate()
    finally:
        if process.poll() is None:
            kill_family(process)
    check_visible_files(out)


@pytest.mark.parametrize(
    ("what", "seed"),
    [
        ("driver", 0),
        pytest.param("worker", 1, marks=pytest.mark.slow),
        *(pytest.param("driver", s, marks=pytest.mark.slow) for s in range(2, 14)),
        *(pytest.param("worker", s, marks=pytest.mark.slow) for s in range(14, 22)),
    ],
)
def test_a_killed_job_goes_on_to_the_same_bytes(undisturbed, tmp_path, what, seed):
    videos, expected, seconds = undisturbed
    out = tmp_path / "out"
    disturb(videos, out, seed, seconds, what)
    run_job(videos, out, "shard.size_mb=1")
    assert published(out) == expected
    assert not list(out.rglob(".unfinished-*"))


@pytest.mark.slow
def test_a_lost_node_does_not_stop_the_job(undisturbed, tmp_path):
    import json
    import subprocess
    import sys

    from job_process import JOB, SETTINGS
    from ray_cluster import two_nodes

    videos, expected, _ = undisturbed
    arguments = {
        "videos": str(videos), "out": str(tmp_path / "out"), "concurrency": 2, "strict": False,
        "settings": [*SETTINGS, "shard.size_mb=1"],
    }  # fmt: skip
    with two_nodes(cpus=1) as nodes:
        job = JOB.replace("strict=", f"address={nodes.address!r}, strict=")
        process = subprocess.Popen(
            [sys.executable, "-c", job, json.dumps(arguments)],
            stdout=subprocess.PIPE, text=True, env=nodes.environment,
        )  # fmt: skip
        for line in process.stdout:
            if line.startswith("progress process"):
                nodes.kill_second_node()
                break
        process.communicate()
        assert process.returncode == 0
    assert published(tmp_path / "out") == expected


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, 2, 4])
def test_bytes_do_not_depend_on_the_number_of_workers(undisturbed, tmp_path, concurrency):
    videos, expected, _ = undisturbed
    run_job(videos, tmp_path / "out", "shard.size_mb=1", concurrency=concurrency)
    assert published(tmp_path / "out") == expected
