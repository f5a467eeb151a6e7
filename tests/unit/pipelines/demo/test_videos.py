"""The demo's videos and portraits."""

import pytest

from pipelines.demo.portraits import PORTRAITS, load_portrait
from pipelines.demo.videos import HELD_OUT_PEOPLE, plan_demo_videos, write_demo_videos
from preprocessing.errors import UserError


def test_held_out_people_and_motions_are_in_no_training_clip(tmp_path):
    clips = plan_demo_videos(tmp_path, people=3, clips_per_person=2, driving_people=3)
    train = [clip.spec for clip in clips if clip.split == "train"]
    held_out = [clip.spec for clip in clips if clip.split == "held_out"]
    assert len(train) == 6
    assert len(held_out) == 3 + HELD_OUT_PEOPLE
    assert len({spec.motion for spec in (*train, *held_out)}) == len(clips)
    assert {s.person for s in held_out} - {s.person for s in train} == {3, 4}
    assert len({clip.path for clip in clips}) == len(clips)


def test_other_seeds_give_other_people(tmp_path):
    first, second = (plan_demo_videos(tmp_path, seed=seed) for seed in (0, 1))
    people = [{clip.spec.person for clip in clips} for clips in (first, second)]
    assert not people[0] & people[1]


def test_finished_clips_are_not_written_again(tmp_path):
    clips = plan_demo_videos(tmp_path, people=1, seconds=0.1, size=64)[:2]
    write_demo_videos(clips)
    written = [clip.path.stat().st_mtime_ns for clip in clips]
    seen = []
    write_demo_videos(clips, on_clip=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 2)]
    assert [clip.path.stat().st_mtime_ns for clip in clips] == written
    assert len(clips[0].read_truth().motion) == 2


@pytest.mark.parametrize(("name", "side"), [("collins", 384), ("hopper", 352)])
def test_portraits(name, side):
    assert load_portrait(name).shape == (side, side, 3)


def test_unknown_portrait_is_one_line():
    with pytest.raises(UserError, match="no demo portrait is named 'x'"):
        load_portrait("x")


def test_other_photograph_is_refused(monkeypatch):
    from dataclasses import replace

    monkeypatch.setitem(PORTRAITS, "collins", replace(PORTRAITS["collins"], sha256="0"))
    with pytest.raises(UserError, match="is not the demo's photograph"):
        load_portrait("collins")
