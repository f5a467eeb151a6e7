"""Preprocessing keeps the truth of synthetic videos, and leaves other videos as they are."""

import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.preprocess.job import preprocess
from pipelines.synthesize.job import synthesize
from pipelines.synthesize.plan import SynthesisConfig
from preprocessing.config import PreprocessConfig
from preprocessing.dataset.quarantine import read_quarantine
from preprocessing.storage.index import read_index
from preprocessing.storage.sample import read_sample
from preprocessing.storage.store import open_store
from preprocessing.synthetic import MOTION_COLUMNS
from preprocessing.synthetic.truth import read_truth
from xnemo.config import override

pytestmark = pytest.mark.ray


def quietly(progress):
    pass


def test_clips_carry_the_exact_motion_of_their_frames(tmp_path):
    videos, out = tmp_path / "videos", tmp_path / "shards"
    synthesize(videos, SynthesisConfig(3, 2.4, size=192, people_per_motion=3), on_progress=quietly)
    # A table that is no truth file is ignored, a damaged truth file is reported.
    (videos / "person-0000001.parquet").write_bytes((videos / "people.parquet").read_bytes())
    truth_file = videos / "person-0000002.parquet"
    table = pq.read_table(io.BytesIO(truth_file.read_bytes())).drop_columns(["jawOpen"])
    pq.write_table(table, truth_file)
    config = override(PreprocessConfig(), ["tube.size=128"])
    preprocess(videos, out, config, on_progress=quietly)
    samples = {
        row["source"]: read_sample(out, row)
        for row in read_index(out).to_dict("records")
        if row["status"] == "kept"
    }
    assert set(samples) == {"person-0000000.mp4", "person-0000001.mp4"}
    first, second = samples["person-0000000.mp4"], samples["person-0000001.mp4"]
    truth = read_truth((videos / "person-0000000.parquet").read_bytes())
    frames = np.round(first.arrays.pts_us * 25 / 1e6).astype(int)
    assert np.array_equal(first.arrays.truth, truth.motion[frames])
    assert first.meta["truth"]["columns"] == list(MOTION_COLUMNS)
    assert (first.meta["truth"]["person"], first.meta["truth"]["group"]) == (0, 0)
    assert second.arrays.truth is None
    assert "truth" not in second.meta
    bad = read_quarantine(open_store(out))
    assert [row["source"] for row in bad] == ["person-0000002.mp4"]
    assert "has no column jawOpen" in json.dumps(bad[0]["detail"])
