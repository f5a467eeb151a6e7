import numpy as np
import pytest
import skimage.data

from preprocessing.config import ShotConfig, TrackConfig
from preprocessing.faces import Face
from preprocessing.faces.track import Tracker
from preprocessing.shots import CutFinder


def small(picture):
    return np.asarray(picture)[::16, ::16].astype(np.uint8)


def cuts(frames):
    finder = CutFinder(ShotConfig())
    return [number for number, frame in enumerate(frames) if finder.is_cut(frame)]


@pytest.fixture(scope="module")
def scenes():
    camera = skimage.data.camera()
    coins = np.pad(skimage.data.coins(), ((0, 209), (0, 128)), mode="reflect")
    moon = skimage.data.moon()
    return [small(camera), small(coins[:512, :512]), small(moon)]


def test_cuts_are_found_at_the_frame_where_they_are(scenes):
    rng = np.random.default_rng(0)

    def noisy(picture):
        return np.clip(picture + rng.normal(0, 2, picture.shape), 0, 255).astype(np.uint8)

    frames = [noisy(scenes[k]) for k in (0, 1, 2, 0) for _ in range(10)]
    assert cuts(frames) == [10, 20, 30]


def test_movement_noise_and_fades_are_no_cuts(scenes):
    camera = skimage.data.camera()
    pan = [small(np.roll(camera, shift, axis=1)) for shift in range(0, 120, 4)]
    assert cuts(pan) == []
    fade = [(scenes[0] * (1 - k / 40)).astype(np.uint8) for k in range(40)]
    assert cuts(fade) == []


def test_a_head_that_fills_the_frame_and_turns_is_no_cut():
    face = skimage.data.astronaut()[:256, 100:356].mean(axis=2)
    frames = [face[:, s : s + 200][::4, ::4].astype(np.uint8) for s in (*range(0, 56, 3), 50, 40)]
    assert cuts(frames) == []


def test_a_change_of_size_is_a_cut(scenes):
    assert cuts([scenes[0], scenes[0], scenes[0][:-1]]) == [2]


def face(x, y, side=100.0, score=0.9):
    box = np.array([x, y, x + side, y + side], dtype=np.float32)
    return Face(box, score, np.zeros((5, 2), np.float32))


def test_two_people_keep_their_numbers_while_they_move():
    tracker = Tracker(TrackConfig(), gap_ticks=15)
    for step in range(20):
        tracks = tracker.update(step, [face(300 - 4 * step, 0), face(4 * step, 0)], None)
        assert tracks[0].box[0] == 300 - 4 * step
        assert tracks[1].box[0] == 4 * step


def test_a_short_loss_is_bridged_and_a_long_one_is_not():
    tracker = Tracker(TrackConfig(), gap_ticks=10)
    assert set(tracker.update(0, [face(0, 0)], None)) == {0}
    assert set(tracker.update(5, [], None)) == set()
    assert set(tracker.update(9, [face(8, 0)], None)) == {0}
    assert set(tracker.update(30, [face(8, 0)], None)) == {1}


def test_people_who_cross_are_told_apart_by_their_faces():
    """Boxes swap places between two looks; overlap alone would swap the people."""
    people = {0: np.array([1.0, 0.0]), 1: np.array([0.0, 1.0])}
    tracker = Tracker(TrackConfig(), gap_ticks=10)

    def look(tick, a, b):
        who = {id(a): 0, id(b): 1}
        return tracker.update(tick, [a, b], lambda f: people[who[id(f)]])

    look(0, face(0, 0), face(60, 0))
    a, b = face(45, 0), face(15, 0)
    tracks = look(4, a, b)
    assert tracks[0] is a
    assert tracks[1] is b


def test_a_lost_person_is_taken_up_elsewhere_by_likeness_only():
    person, other = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    tracker = Tracker(TrackConfig(), gap_ticks=10)
    tracker.update(0, [face(0, 0)], lambda f: person)
    assert set(tracker.update(4, [face(140, 0)], lambda f: other)) == {1}
    assert set(tracker.update(8, [face(140, 0), face(10, 90)], lambda f: person)) == {0, 1}
