"""`xnemo synthesize`: the same bytes however it is run, with the truth beside every video."""

import hashlib
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from pipelines.cli.main import run
from pipelines.synthesize.job import forecast, synthesize
from pipelines.synthesize.plan import PEOPLE_PER_SEED, SynthesisConfig
from preprocessing.decode import open_video
from preprocessing.errors import UserError
from preprocessing.synthetic import sample_motion
from preprocessing.synthetic.truth import read_truth

CONFIG = SynthesisConfig(people=4, seconds=0.4, size=64, people_per_motion=2)
COMMAND = [
    sys.executable, "-m", "pipelines.cli.main", "synthesize",
    "--people=4", "--seconds=0.4", "--size=64", "--people-per-motion=2",
]  # fmt: skip


def digests(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.is_file()
    }


def quietly(progress):
    pass


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("synthetic") / "videos"
    result = synthesize(out, CONFIG, concurrency=2, on_progress=quietly)
    assert (result.clips, result.made, result.motions, result.frames) == (4, 4, 2, 40)
    return out


@pytest.mark.ray
def test_files_are_videos_truth_and_people(made):
    assert sorted(p.name for p in made.iterdir() if p.is_file()) == sorted(
        [f"person-{n:07d}.{end}" for n in range(4) for end in ("mp4", "parquet")]
        + ["people.parquet", "synthesis.json"]
    )
    people = pd.read_parquet(made / "people.parquet")
    assert people["group"].tolist() == [0, 0, 1, 1]
    assert {"gender", "age", "hair_style", "shape.nose-hump-incr"} <= set(people.columns)
    with open_video(str(made / "person-0000003.mp4")) as reader:
        frames = [frame.rgb() for frame in reader.frames()]
    assert len(frames) == 10
    assert frames[0].shape == (64, 64, 3)


@pytest.mark.ray
def test_people_of_a_group_share_their_motion(made):
    truths = [read_truth((made / f"person-{n:07d}.parquet").read_bytes()) for n in range(4)]
    assert np.array_equal(truths[0].motion, truths[1].motion)
    assert np.array_equal(truths[2].motion, truths[3].motion)
    assert not np.array_equal(truths[0].motion, truths[2].motion)
    assert np.array_equal(truths[2].motion, sample_motion(1, np.arange(10) / 25))
    assert [t.facts["group"] for t in truths] == [0, 0, 1, 1]


@pytest.mark.ray
def test_killed_run_resumes_to_the_same_bytes(made, tmp_path):
    out = tmp_path / "videos"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [*COMMAND, str(out), "--concurrency=1"], env=environment, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 300
        while not list(out.glob("*.mp4")) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
    assert list(out.glob("*.mp4"))
    result = synthesize(out, CONFIG, concurrency=1, on_progress=quietly)
    assert result.made < 4
    assert digests(out) == digests(made)
    again = synthesize(out, CONFIG, on_progress=quietly)
    assert again.made == 0


@pytest.mark.ray
def test_other_settings_and_fewer_people_are_refused(made):
    with pytest.raises(UserError, match=r"were made with seconds 0\.4, not 1"):
        synthesize(made, SynthesisConfig(people=4, seconds=1, size=64, people_per_motion=2))
    with pytest.raises(UserError, match="is for 4 people, not 2"):
        synthesize(made, SynthesisConfig(people=2, seconds=0.4, size=64, people_per_motion=2))


def test_forecast_writes_nothing(tmp_path):
    expected = forecast(tmp_path / "none", SynthesisConfig(people=100, seconds=1, size=64))
    assert expected.todo == 100
    assert expected.core_hours > 0
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 100}, "size is 100; give a multiple of 16"),
        ({"people": PEOPLE_PER_SEED + 1}, "people is 1000001"),
        ({"people_per_motion": 0}, "people_per_motion is 0"),
        ({"seconds": 0}, "seconds is 0"),
        ({"fps": 0.5}, "fps is 0.5"),
        ({"seed": 5000}, "seed is 5000"),
    ],
)
def test_bad_settings_are_one_line(values, message):
    with pytest.raises(UserError, match=message):
        SynthesisConfig(**{"people": 1, "seconds": 1.0, **values})


def test_full_disk_is_one_line(tmp_path, monkeypatch):
    import errno

    from preprocessing.storage.local_store import LocalStore
    from preprocessing.storage.store import StoreFullError

    def full(self, path, data):
        raise StoreFullError(errno.ENOSPC, "No space left on device", path)

    monkeypatch.setattr(LocalStore, "write_atomic", full)
    with pytest.raises(UserError, match=r"no space is left in .*; finished clips are kept"):
        synthesize(tmp_path, CONFIG, on_progress=quietly)


def test_command_refuses_in_one_line(tmp_path, capsys):
    assert run(["synthesize", str(tmp_path), "--people=1", "--seconds=1", "--size=90"]) == 2
    assert capsys.readouterr().err == "error: size is 90; give a multiple of 16\n"
