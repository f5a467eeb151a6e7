"""The same job, unchanged but for its address, on a cluster of two nodes."""

import json
import subprocess
import sys

import pytest
from footage import astronaut_footage
from ray_cluster import two_nodes
from writing import encode

from preprocessing.storage.index import index_digest, read_index

pytestmark = pytest.mark.ray

JOB = """
import json, sys
from pipelines.preprocess.job import preprocess
from preprocessing.config import PreprocessConfig
from xnemo.config import override

config = override(PreprocessConfig(), ["tube.size=256", "detect.size=320"])
result = preprocess(sys.argv[1], sys.argv[2], config, address=sys.argv[3] or None,
                    on_progress=lambda _: None)
print(json.dumps({"kept": result.kept, "processed": result.processed}))
"""


def run(videos, out, address, environment):
    done = subprocess.run(
        [sys.executable, "-c", JOB, str(videos), str(out), address],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_two_nodes_write_what_one_machine_writes(tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    for seed in range(3):
        encode(videos / f"{seed}.mp4", astronaut_footage(seed, 50, 256, 256))
    with two_nodes(cpus=1) as nodes:
        assert run(videos, tmp_path / "two", nodes.address, nodes.environment) == {
            "kept": 3, "processed": 3,
        }  # fmt: skip
        # The finished data set is the resume: on one machine there is nothing left to do.
        again = run(videos, tmp_path / "two", "", nodes.environment)
    assert again == {"kept": 3, "processed": 0}
    assert len(read_index(tmp_path / "two")) == 3
    assert index_digest(tmp_path / "two")
