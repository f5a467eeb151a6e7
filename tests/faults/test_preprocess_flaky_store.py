"""Sources and output in an object store of which one call in five fails."""

import os

import fsspec
import pytest
from footage import astronaut_footage
from job_process import published, run_job
from s3_server import BUCKET, s3_server
from writing import encode

from preprocessing.storage.index import index_digest

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_a_store_that_fails_one_call_in_five_gets_the_same_bytes(tmp_path, monkeypatch):
    videos = tmp_path / "videos"
    videos.mkdir()
    for seed in range(2):
        encode(videos / f"{seed}.mp4", astronaut_footage(seed, 50, 256, 256))
    (videos / "bad.mp4").write_text("no video")
    local = tmp_path / "local"
    expected = run_job(videos, local)
    with s3_server(fail_every=0) as (environment, server):
        for name in environment.keys() - os.environ.keys():
            monkeypatch.setenv(name, environment[name])
        remote = fsspec.filesystem("s3", skip_instance_cache=True)
        for file in videos.iterdir():
            with remote.open(f"{BUCKET}/videos/{file.name}", "wb") as stream:
                stream.write(file.read_bytes())
        server._every = 5
        out = f"s3://{BUCKET}/out"
        assert run_job(f"s3://{BUCKET}/videos", out, environment=environment) == expected
        assert server.failed > 5
        # What a reader sees is what a local run wrote, to the byte; nothing unfinished lies about.
        server._every = 0
        for name, data in published(local).items():
            folder = "shards/" if name.endswith(".tar") else ""
            with remote.open(f"{BUCKET}/out/{folder}{name}", "rb") as stream:
                assert stream.read() == data, name
        assert index_digest(out) == index_digest(local)
        assert not [path for path in remote.find(f"{BUCKET}/out") if "unfinished" in path]
        again = run_job(f"s3://{BUCKET}/videos", out, environment=environment)
    assert again == {**expected, "processed": 0}
