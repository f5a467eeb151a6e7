"""Ray's own agent exports what jobs measure, under the names that dashboard and alerts ask for."""

import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from pipelines.cluster.metrics import METRICS

pytestmark = [pytest.mark.ray, pytest.mark.slow]

JOB = """
import sys, time, ray
from pipelines.cluster.metrics import METRICS, record
ray.init(num_cpus=1, include_dashboard=False, _metrics_export_port=int(sys.argv[1]))
@ray.remote
def work():
    for name, (_, _, labels) in METRICS.items():
        record(name, 3.0, **dict.fromkeys(labels, "runs/first"))
    time.sleep(120)
ray.get(work.remote())
"""


def test_every_measurement_can_be_scraped() -> None:
    # What the agent needs comes with ray[default].
    for library in ("prometheus_client", "opencensus", "aiohttp_cors"):
        pytest.importorskip(library, reason="pip install 'xnemo[cluster]'")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    missing = {f"ray_{name}" for name in METRICS}
    with subprocess.Popen([sys.executable, "-c", JOB, str(port)]) as job:
        deadline = time.monotonic() + 120
        while missing and time.monotonic() < deadline and job.poll() is None:
            time.sleep(1)
            try:
                page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5)
            except OSError:
                continue
            lines = page.read().decode().splitlines()
            missing -= {line.partition("{")[0] for line in lines}
            runs = [line for line in lines if line.startswith("ray_xnemo_loss{")]
        job.terminate()
    assert missing == set()
    assert all('run="runs/first"' in line and line.endswith(" 3.0") for line in runs)
