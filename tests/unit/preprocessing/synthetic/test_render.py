"""Rendered people: deterministic, different from each other, and moved exactly as told."""

import numpy as np
import pytest

from preprocessing.errors import UserError
from preprocessing.synthetic import (
    MOTION_COLUMNS,
    Renderer,
    make_motion,
    render,
    sample_motion,
    sample_person,
)
from preprocessing.synthetic.body.pose import head_rotation
from preprocessing.synthetic.motion.columns import ACTIONS, COLUMN
from preprocessing.synthetic.person import SEEDS


@pytest.fixture(scope="module")
def person():
    return sample_person(1)


@pytest.fixture(scope="module")
def renderer(person):
    return Renderer(person, 128, device="cpu")


def test_same_seed_same_pixels(person):
    motion = sample_motion(5, np.array([0.0, 0.7]))
    frames = render(person, motion, 64, device="cpu")
    assert frames.shape == (2, 64, 64, 3)
    assert frames.dtype == np.uint8
    sample_person.cache_clear()
    assert np.array_equal(render(sample_person(1), motion, 64, device="cpu"), frames)


def test_people_differ(person):
    first = render(person, make_motion(), 64, device="cpu").astype(int)
    second = render(sample_person(2), make_motion(), 64, device="cpu").astype(int)
    assert np.abs(first - second).mean() > 10


def test_every_column_changes_the_image(renderer):
    still = renderer.frame(make_motion()[0]).astype(int)
    unchanged = []
    for name in MOTION_COLUMNS:
        amount = {"zoom": 0.1, "tx": 0.05, "ty": 0.05}.get(name, 1.0 if name in ACTIONS else 10.0)
        base = make_motion(jawOpen=1.0) if name == "mouthClose" else make_motion()
        reference = renderer.frame(base[0]).astype(int) if base.any() else still
        base[0, COLUMN[name]] = amount
        if np.abs(renderer.frame(base[0]).astype(int) - reference).max() < 12:
            unchanged.append(name)
    assert unchanged == []


@pytest.mark.parametrize(("yaw", "pitch", "roll"), [(30, 0, 0), (0, -15, 0), (-12, 9, 14)])
def test_head_turns_by_exactly_the_columns(renderer, yaw, pitch, roll):
    row = make_motion(yaw=yaw, pitch=pitch, roll=roll)[0]
    turned = renderer.head_transform(row)[:3, :3]
    assert np.abs(turned - head_rotation(yaw, pitch, roll)).max() < 1e-6


def test_same_motion_turns_two_people_alike(renderer):
    row = sample_motion(9, [1.3])[0]
    other = Renderer(sample_person(2), 64, device="cpu")
    assert np.array_equal(renderer.head_transform(row)[:3, :3], other.head_transform(row)[:3, :3])


def test_landmarks_move_with_the_signs_of_the_columns(renderer):
    still = renderer.landmarks(make_motion()[0])
    assert still[0, 0] < still[2, 0] < still[1, 0]
    assert still[3, 0] < still[4, 0]
    assert still[:2, 1].max() < still[2, 1] < still[3:, 1].min()
    nose = {
        name: renderer.landmarks(make_motion({name: value})[0])[2] - still[2]
        for name, value in (("yaw", 20), ("pitch", 15), ("tx", 0.1), ("ty", 0.1))
    }
    assert nose["yaw"][0] > 2
    assert nose["pitch"][1] < -2
    assert nose["tx"] == pytest.approx([12.8, 0], abs=1e-3)
    assert nose["ty"] == pytest.approx([0, -12.8], abs=1e-3)
    rolled = renderer.landmarks(make_motion(roll=10)[0])
    assert rolled[1, 1] > rolled[0, 1]


@pytest.mark.parametrize(
    ("size", "motion", "message"),
    [
        (100, make_motion(), "the size is 100 pixels; give a multiple of 16"),
        (64, np.zeros((2, 51)), "motion has shape"),
        (64, np.full((1, 52), np.inf), "yaw of frame 0 is inf"),
    ],
)
def test_bad_input_is_one_line(person, size, motion, message):
    with pytest.raises(UserError, match=message):
        render(person, motion, size)


def test_seeds_have_limits():
    with pytest.raises(UserError, match="the person's seed is"):
        sample_person(SEEDS)
