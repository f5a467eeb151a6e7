"""Jobs submitted to a Ray head that asks for a token: what reaches the submitter, and a stop."""

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from moving_faces import write_dataset

from pipelines.demo.videos import plan_demo_videos, write_demo_videos
from preprocessing.storage.index import read_index
from xnemo.training.monitor.run_log import read_log

pytest.importorskip("opencensus", reason="Ray takes no jobs: pip install 'ray[default]'")
pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]

PROGRAMS = Path(sys.executable).parent


def free_ports(count):
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture(scope="module")
def cluster():
    """Addresses of a head and of its job server, and the environment with their token."""
    # Each of its own, because another Ray may run on this machine.
    port, dashboard, agent, client = free_ports(4)
    own = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_JOB_STOP_WAIT_TIME_S": "120",
        "PATH": f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}",
    }
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | own
    head = subprocess.Popen(
        [
            PROGRAMS / "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1",
            f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=2",
            f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}",
            "--object-store-memory=200000000",
        ],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(1200):
            try:
                socket.create_connection(("127.0.0.1", dashboard), timeout=1).close()
                break
            except OSError:
                assert head.poll() is None, "Ray did not start"
                time.sleep(0.1)
        yield f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", environment
    finally:
        head.terminate()
        head.wait(timeout=60)


def ray_job(cluster, verb, *words, **options):
    """Run `ray job VERB` as a submitter and return the finished process."""
    _, server, environment = cluster
    return subprocess.run(
        [PROGRAMS / "ray", "job", verb, "--address", server, *map(str, words)],
        env=environment, capture_output=True, text=True, check=False, **options,
    )  # fmt: skip


def test_the_last_words_and_the_status_reach_the_submitter(cluster, tmp_path):
    write_demo_videos(plan_demo_videos(tmp_path / "videos", people=1, seconds=2.2))
    words = ("xnemo", "preprocess", tmp_path / "videos", tmp_path / "out", "--address", "auto")
    done = ray_job(cluster, "submit", "--", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(read_index(tmp_path / "out")) > 0
    assert "xnemo inspect" in done.stdout
    wrong = ray_job(cluster, "submit", "--", *words[:2], tmp_path / "nothing", *words[3:])
    assert wrong.returncode != 0
    assert re.search(r"^error: .*nothing.*; ", wrong.stdout, re.MULTILINE)


def test_a_stopped_job_has_saved_a_checkpoint_and_resumes(cluster, tmp_path):
    data = write_dataset(tmp_path / "faces", frames=4)
    words = (
        "xnemo", "train", "tiny", "--data", data, "--run", "first", "--runs-dir", tmp_path / "runs",
        "--address", "auto", "optimizer.warmup_samples=0", "engine.peak_tflops=1",
    )  # fmt: skip
    submitted = ray_job(cluster, "submit", "--no-wait", "--submission-id", "first", "--", *words)
    assert submitted.returncode == 0, submitted.stderr
    run_dir = tmp_path / "runs" / "first"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        if (run_dir / "log.jsonl").is_file() and any("loss" in r for r in read_log(run_dir)):
            break
        time.sleep(0.5)
    stopped = ray_job(cluster, "stop", "first")
    assert stopped.returncode == 0, stopped.stderr
    assert "STOPPED" in ray_job(cluster, "status", "first").stdout
    assert (
        "interrupted; run the same command again to resume"
        in ray_job(cluster, "logs", "first").stdout
    )
    seen = json.loads((run_dir / "bundle" / "bundle.json").read_text())["samples_seen"]
    assert 0 < seen < 3200
    again = ray_job(cluster, "submit", "--", *words, f"samples={seen + 16}")
    assert again.returncode == 0, again.stdout + again.stderr
    resumed = [r["samples_seen"] for r in read_log(run_dir) if r.get("event") == "resumed"]
    assert resumed == [seen]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"RAY_AUTH_TOKEN": secrets.token_hex(32)}, "cannot join the Ray cluster at"),
        ({"RAY_AUTH_TOKEN": "", "RAY_AUTH_MODE": "disabled"}, "cannot join the Ray cluster at"),
    ],
    ids=["another token", "no token"],
)
def test_who_has_no_right_is_told_in_one_line(cluster, tmp_path, change, message):
    address, _, environment = cluster
    data = write_dataset(tmp_path / "faces", frames=4)
    command = [PROGRAMS / "xnemo", "train", "tiny", "--data", data, "--run", "a", "--runs-dir",
               tmp_path, "--address", address]  # fmt: skip
    done = subprocess.run(
        command, env=environment | change, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert message in line
    assert "Traceback" not in done.stderr


def test_a_cluster_without_the_gpus_refuses_at_once(cluster, tmp_path):
    address, _, environment = cluster
    data = write_dataset(tmp_path / "faces", frames=4)
    command = [PROGRAMS / "xnemo", "train", "tiny", "--data", data, "--run", "a", "--runs-dir",
               tmp_path, "--address", address, "engine.device=cuda", "--workers", "4"]  # fmt: skip
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"4 workers need 4 GPUs and the cluster at {address} has 0" in done.stderr
