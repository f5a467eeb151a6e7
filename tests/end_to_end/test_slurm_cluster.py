"""The Slurm script under a real Slurm: one controller and two daemons on this machine."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from moving_faces import write_dataset

from xnemo.training.monitor.run_log import read_log

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]
if not shutil.which("slurmctld") or os.geteuid() != 0:
    pytest.skip("no Slurm: apt-get install slurm-wlm munge, as root", allow_module_level=True)

SCRIPT = Path(__file__).resolve().parents[2] / "infra" / "slurm" / "xnemo.sbatch"

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={0}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdSpoolDir={folder}/spool.%n
SlurmUser=root
StateSaveLocation={folder}/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
NodeName=node1 NodeHostName={host} NodeAddr=127.0.0.1 Port={1} CPUs=1 RealMemory=4000
NodeName=node2 NodeHostName={host} NodeAddr=127.0.0.1 Port={2} CPUs=1 RealMemory=4000
PartitionName=all Nodes=ALL Default=YES
"""


def free_ports(count):
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture
def slurm(tmp_path_factory):
    """The environment of Slurm's programs, with two idle nodes."""
    # Unix sockets have short names, and munge wants a folder that others cannot write.
    folder = tmp_path_factory.mktemp("slurm")
    for parent in (folder, *folder.parents[:3]):
        parent.chmod(0o1777 if str(parent) == "/tmp" else 0o755)
    (folder / "state").mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    path = folder / "slurm.conf"
    path.write_text(
        CONFIGURATION.format(*free_ports(3), host=socket.gethostname().split(".")[0], folder=folder)
    )
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "SLURM_"))}
    environment |= {"SLURM_CONF": str(path), "PATH": search, "RAY_PORT": str(free_ports(1)[0])}
    munge = [f"--{n}={folder}/{n}" for n in ("pid-file", "log-file", "seed-file")]
    daemons = [
        ["munged", "--force", "--foreground", f"--key-file={folder}/munge.key",
         f"--socket={folder}/munge.socket", *munge],
        ["slurmctld", "-D"], ["slurmd", "-D", "-N", "node1"], ["slurmd", "-D", "-N", "node2"],
    ]  # fmt: skip
    running = []
    try:
        for words in daemons:
            with (folder / f"{len(running)}.out").open("w") as out:
                running.append(
                    subprocess.Popen(words, env=environment, stdout=out, stderr=subprocess.STDOUT)
                )
            time.sleep(1.0)
        wait_for(lambda: call(environment, "sinfo", "-h", "-t", "idle", "-o", "%D") == "2", 60)
        yield environment
    finally:
        for daemon in reversed(running):
            daemon.terminate()
        for daemon in running:
            daemon.wait(timeout=60)


def call(environment, *words):
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_training_on_two_nodes_is_requeued_and_goes_on_from_its_checkpoint(slurm, tmp_path):
    data, run_dir = write_dataset(tmp_path / "faces", frames=4), tmp_path / "runs" / "first"
    output = tmp_path / "output"
    job = call(
        slurm, "sbatch", "--parsable", "--nodes=2", "--cpus-per-task=1", f"--output={output}",
        "--open-mode=append", str(SCRIPT), "train", "tiny", "--data", str(data), "--run", "first",
        "--runs-dir", str(run_dir.parent), "--workers", "2", "samples=160",
        "optimizer.warmup_samples=0", "engine.peak_tflops=1",
    )  # fmt: skip

    def state():
        return call(slurm, "squeue", "-h", "-j", job, "-o", "%T")

    def trains():
        assert state(), output.read_text()
        log = run_dir / "log.jsonl"
        return log.is_file() and any("loss" in record for record in read_log(run_dir))

    try:
        wait_for(trains, 300)
        # What `--signal=B:TERM@300` does five minutes before the time limit.
        call(slurm, "scancel", "--signal=TERM", "--batch", job)
        wait_for(lambda: state() == "PENDING" or "COMPLET" not in state(), 120)
        wait_for(lambda: not state(), 300)
    finally:
        call(slurm, "scancel", job)
    shown = call(slurm, "scontrol", "show", "job", job) + output.read_text()
    assert "Restarts=1" in shown, shown
    assert "JobState=COMPLETED" in shown, shown
    meta = json.loads((run_dir / "bundle" / "bundle.json").read_text())
    assert (meta["samples_seen"], meta["workers"]) == (160, 2)
    (resumed,) = [r["samples_seen"] for r in read_log(run_dir) if r.get("event") == "resumed"]
    assert 0 < resumed < 160
