"""The Slurm script, run as Slurm would run it: its own programs are replaced, Ray is real."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.demo.videos import plan_demo_videos, write_demo_videos
from preprocessing.storage.index import read_index

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(600)]

SCRIPT = Path(__file__).resolve().parents[2] / "infra" / "slurm" / "xnemo.sbatch"

SCONTROL = """#!/bin/sh
case $1 in
  show) printf 'node-a\\nnode-b\\n' ;;
  requeue) echo "$2" > "$REQUEUED" ;;
esac
"""

# Every node is this machine.
SRUN = """#!/bin/sh
while [ "${1#--}" != "$1" ]; do shift; done
[ "$1" = hostname ] && { echo 127.0.0.1; exit; }
exec "$@"
"""

# Waits to be asked to stop, as a training run that is not done.
STOPPABLE = """#!/bin/sh
trap 'exit 130' TERM
echo "$@" > "$STARTED"
while :; do sleep 0.2; done
"""


@pytest.fixture
def job(tmp_path):
    """A function that starts the script in the environment of a Slurm job."""
    programs = tmp_path / "programs"
    programs.mkdir()
    # The programs of this environment, whether or not the shell searches it.
    search = f"{programs}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "SLURM_"))}
    environment |= {
        "PATH": search,
        "RAY_PORT": str(port),
        "SLURM_JOB_ID": "17",
        "SLURM_JOB_NODELIST": "node-[a-b]",
        "SLURM_CPUS_PER_TASK": "1",
        "REQUEUED": str(tmp_path / "requeued"),
        "STARTED": str(tmp_path / "started"),
    }

    def start(nodes: int, *arguments: str, **fakes: str) -> subprocess.Popen:
        for name, content in {"scontrol": SCONTROL, "srun": SRUN, **fakes}.items():
            (programs / name).write_text(content)
            (programs / name).chmod(0o755)
        return subprocess.Popen(
            ["bash", SCRIPT, *arguments],
            env=environment | {"SLURM_JOB_NUM_NODES": str(nodes)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def test_videos_are_preprocessed_on_all_nodes_of_a_job(job, tmp_path):
    write_demo_videos(plan_demo_videos(tmp_path / "videos", people=1, seconds=2.2))
    running = job(2, "preprocess", str(tmp_path / "videos"), str(tmp_path / "out"))
    printed, _ = running.communicate()
    assert running.returncode == 0, printed
    assert len(read_index(tmp_path / "out")) > 0
    assert not (tmp_path / "requeued").exists()


def test_a_job_that_is_told_to_end_goes_back_into_the_queue(job, tmp_path):
    running = job(1, "train", "tiny", xnemo=STOPPABLE)
    started = tmp_path / "started"
    for _ in range(1200):
        if started.exists() or running.poll() is not None:
            break
        time.sleep(0.1)
    assert started.exists(), running.communicate()[0]
    running.send_signal(signal.SIGTERM)
    printed, _ = running.communicate()
    assert running.returncode == 130, printed
    assert (tmp_path / "requeued").read_text() == "17\n"
    command, address = started.read_text().split(" --address ")
    assert command == "train tiny"
    # Its Ray went with it.
    host, port = address.strip().split(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=5)
