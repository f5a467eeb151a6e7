import numpy as np
import pytest

from pipelines.demo.contact_sheet import contact_sheet, save_picture
from pipelines.demo.stages import Stages, family_memory
from pipelines.demo.trials import held_out_trials
from pipelines.demo.videos import make_demo_videos


def test_truth_is_the_portrait_moved_as_the_driver(tmp_path):
    people = ("collins", "hopper")
    clips = make_demo_videos(tmp_path, clips_per_identity=1, seconds=0.6, identities=people)
    cross, own = held_out_trials(clips, ("collins",), "hopper", every=2)
    assert cross.name == "collins driven by hopper"
    assert own.name == "collins driven by their own clip"
    for trial in (cross, own):
        assert len(trial.driving) == len(trial.truth)
        # The clip begins at rest: the first frame of the truth is the portrait.
        np.testing.assert_array_equal(trial.truth[0], trial.portrait)
        assert abs(trial.truth[-1].astype(int) - trial.portrait).mean() > 2
    # Her own clip shows the truth but for the codec's loss.
    assert abs(own.truth.astype(int) - own.driving).mean() < 4


def test_contact_sheet_shows_rows_over_each_other(tmp_path):
    clip = [np.full((20, 20, 3), shade, np.uint8) for shade in (10, 100, 200)]
    sheet = contact_sheet(clip[0], [("one", clip), ("two", clip[::-1])], columns=3, side=40)
    assert sheet.dtype == np.uint8
    shades = {tuple(colour) for colour in sheet.reshape(-1, 3).tolist()}
    assert {(10, 10, 10), (100, 100, 100), (200, 200, 200)} <= shades
    save_picture(sheet, tmp_path / "sheet.png")
    assert [p.name for p in tmp_path.iterdir()] == ["sheet.png"]


def test_stages_are_timed_and_weighed_even_where_they_fail():
    stages = Stages()
    with pytest.raises(SimpleError), stages.measure("one"):
        raise SimpleError
    with stages.measure("two"):
        pass
    assert list(stages.seconds) == ["one", "two"]
    assert stages.peak_memory >= 0.5 * family_memory() > 10 * 2**20


class SimpleError(Exception):
    pass
