import itertools

import cv2
import numpy as np
import pytest

from pipelines.demo.faces import SITTERS, Photograph, load_portrait
from pipelines.demo.motion import LIMITS, MOTION_NAMES, neutral, sample_motion
from pipelines.demo.warp import FaceWarp, render
from preprocessing.errors import UserError


def motion(**values):
    row = neutral(1)[0]
    for name, value in values.items():
        row[MOTION_NAMES.index(name)] = value
    return row


@pytest.fixture(scope="module")
def collins():
    return load_portrait("collins")


def around(point, half):
    x, y = round(point[0]), round(point[1])
    return slice(y - half, y + half), slice(x - half, x + half)


@pytest.mark.parametrize("identity", SITTERS)
def test_no_motion_gives_the_photograph_bit_for_bit(identity):
    portrait = load_portrait(identity)
    (frame,) = render(portrait, neutral(1))
    np.testing.assert_array_equal(frame, portrait.image)


@pytest.mark.parametrize(("name", "axis"), [("yaw", 0), ("pitch", 1), ("shift_x", 0)])
def test_the_nose_is_seen_where_the_parameter_puts_it(collins, name, axis):
    """Template matching, which knows nothing of the warp, finds the nose's displacement."""
    warp = FaceWarp(collins)
    nose = np.array(collins.face.nose)
    patch = collins.image[around(nose, 14)]
    limit = LIMITS[MOTION_NAMES.index(name)]
    told, seen = [], []
    for value in np.linspace(-limit, limit, 7):
        row = motion(**{name: value})
        match = cv2.matchTemplate(warp.frame(row), patch, cv2.TM_CCOEFF_NORMED)
        found = np.array(np.unravel_index(match.argmax(), match.shape))[::-1] + 14
        seen.append((found - np.round(nose))[axis])
        told.append((warp.move_points(nose[None], row)[0] - nose)[axis])
    assert np.ptp(told) > 12
    np.testing.assert_allclose(seen, told, atol=2.0)
    assert np.corrcoef(seen, told)[0, 1] > 0.98


@pytest.mark.parametrize("identity", SITTERS)
def test_the_head_never_folds(identity):
    """Neighbouring pixels come from neighbouring places in the same order: no tears, no folds."""
    warp = FaceWarp(load_portrait(identity))
    pose = MOTION_NAMES[:6]
    for signs in itertools.product((-1, 1), repeat=len(pose)):
        row = dict(zip(pose, (signs * LIMITS[: len(pose)]).tolist(), strict=True))
        x, y = warp._undo_head(row)
        x_right, x_down = np.diff(x, axis=1)[:-1], np.diff(x, axis=0)[:, :-1]
        y_right, y_down = np.diff(y, axis=1)[:-1], np.diff(y, axis=0)[:, :-1]
        area = x_right * y_down - x_down * y_right
        assert area.min() > 0.02
        assert area.max() < 6


def test_the_background_stays(collins):
    frame = FaceWarp(collins).frame(motion(yaw=20, pitch=-14, roll=10))
    corner = np.s_[-40:, -40:]
    np.testing.assert_array_equal(frame[corner], collins.image[corner])


def test_the_mouth_opens_and_nothing_else(collins):
    warp = FaceWarp(collins)
    face = collins.face
    middle = face.mouth[1]
    mouth = around((middle[0], middle[1] + 6), 6)
    brightness = [warp.frame(motion(mouth=m))[mouth].mean() for m in (0, 0.4, 0.7, 1.0)]
    assert brightness == sorted(brightness, reverse=True)
    assert brightness[-1] < 0.6 * brightness[0]
    above = np.s_[: round(face.nose[1])]
    np.testing.assert_array_equal(warp.frame(motion(mouth=1))[above], collins.image[above])


def test_the_eyes_close_and_nothing_else(collins):
    warp = FaceWarp(collins)
    closed = warp.frame(motion(blink=1)).astype(int)
    for eye in collins.face.eyes:
        pupil = around(((eye.upper[0] + eye.lower[0]) / 2, (eye.upper[1] + eye.lower[1]) / 2), 2)
        assert closed[pupil].mean() > collins.image[pupil].mean() + 30
    below = np.s_[round(collins.face.nose[1]) :]
    np.testing.assert_array_equal(closed[below], collins.image[below])


def test_smile_widens_the_mouth(collins):
    warp = FaceWarp(collins)
    corner = collins.face.mouth[0]
    patch = collins.image[around(corner, 10)]
    match = cv2.matchTemplate(warp.frame(motion(smile=0.8)), patch, cv2.TM_CCOEFF_NORMED)
    y, x = np.unravel_index(match.argmax(), match.shape)
    assert x + 10 < round(corner[0])
    assert y + 10 < round(corner[1])


def test_frames_are_reproducible(collins):
    rows = sample_motion(5, np.arange(4) / 25)
    for first, second in zip(render(collins, rows), render(collins, rows), strict=True):
        np.testing.assert_array_equal(first, second)


def test_every_part_of_every_face_lies_in_its_portrait():
    for identity in SITTERS:
        portrait = load_portrait(identity)
        height, width = portrait.image.shape[:2]
        assert height % 16 == width % 16 == 0
        points = [portrait.face.nose, portrait.face.chin, *portrait.face.mouth]
        for eye in portrait.face.eyes:
            points += [eye.left, eye.right, eye.upper, eye.lower, eye.crease]
            assert eye.crease[1] < eye.upper[1] < eye.lower[1]
        for x, y in points:
            assert 0 < x < width
            assert 0 < y < height


def test_a_missing_portrait_is_told_in_one_line():
    with pytest.raises(UserError, match="nobody"):
        load_portrait("nobody")
    with pytest.raises(UserError, match="not the photograph"):
        Photograph("skimage", "data/astronaut.png", "0" * 64, "").read()
    with pytest.raises(UserError, match="not installed"):
        Photograph("no_such_package", "a.png", "0" * 64, "").read()
