"""A full disk: nothing broken is visible, the job reports it and resumes once there is room."""

import subprocess
import tarfile

import pytest
from footage import astronaut_footage
from job_process import published, run_job
from writing import encode

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_a_full_disk_is_reported_and_the_job_resumes_when_there_is_room(mount_disk, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    for seed in range(2):
        encode(videos / f"{seed}.mp4", astronaut_footage(seed, 70, 256, 256))
    run_job(videos, tmp_path / "whole")
    assert sum(map(len, published(tmp_path / "whole").values())) > 200_000
    small_disk = mount_disk(200 * 1024)
    out = small_disk / "out"
    failed = run_job(videos, out)
    assert "no space is left" in failed["error"]
    assert "run the same command" in failed["error"]
    for output in out.glob("_work/chunks/*/*.tar"):
        with tarfile.open(output) as archive:
            archive.getnames()
    assert not list(out.glob("shards/*.tar"))
    assert not (out / "index.parquet").exists()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    run_job(videos, out)
    assert published(out) == published(tmp_path / "whole")
