"""The raylet on the driver's machine is killed: one error line, and the same command resumes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from footage import astronaut_footage
from writing import encode

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_job_whose_ray_is_killed_reports_it_and_resumes(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for seed in range(8):
        picture = astronaut_footage(seed, 150, 256, 256)
        encode(tmp_path / "videos" / f"{seed}.mp4", picture)
    program = Path(sys.executable).with_name("xnemo")
    command = [program, "preprocess", "videos", "out", "--concurrency", "1", "tube.size=256"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    job = subprocess.Popen(
        command, cwd=tmp_path, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    while not list(tmp_path.glob("out/_work/chunks/**/*.tar")):
        assert job.poll() is None, job.communicate()
        time.sleep(0.05)
    (raylet,) = [
        p for p in psutil.Process(job.pid).children(recursive=True) if p.name() == "raylet"
    ]
    os.kill(raylet.pid, signal.SIGKILL)
    _, stderr = job.communicate()
    assert job.returncode == 2, stderr
    (line,) = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert "Ray ended on this machine" in line
    assert "Traceback" not in stderr
    done = len(list(tmp_path.glob("out/_work/chunks/**/*.tar")))
    again = subprocess.run(
        command, cwd=tmp_path, env=environment, text=True, capture_output=True, check=True
    )
    assert f"{8 - done} of them processed now" in again.stdout
