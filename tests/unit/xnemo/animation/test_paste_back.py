"""Frames back in the whole portrait: place, size and seam."""

import numpy as np
import pytest

from preprocessing import geometry
from xnemo.animation.animator import Portrait
from xnemo.animation.paste_back import PasteBack


def cut(image, box):
    crop = geometry.reference_crop_box(box, image.shape[:2])
    wide = geometry.crop_resize(image, crop, 64)
    return Portrait(np.asarray(box, float), crop, wide, wide, 1)


def gradient(height, width):
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x / width, 255 * y / height, 0 * x + 90], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((301, 203), (80, 90, 120, 150)),
        ((200, 401), (150, 60, 220, 130)),
        # Crops that leave the picture on one side and on all.
        ((301, 203), (0, 0, 60, 70)),
        ((101, 99), (5, 5, 90, 95)),
    ],
)
def test_the_portraits_own_crop_goes_back_to_where_it_was(size, box):
    image = gradient(*size)
    portrait = cut(image, box)
    result = PasteBack(image, portrait)(portrait.wide)
    height, width = size[0] // 2 * 2, size[1] // 2 * 2
    assert result.shape == (height, width, 3)
    assert np.abs(result.astype(int) - image[:height, :width]).mean() < 2
    x0, y0, x1, y1 = (int(v) for v in portrait.crop)
    outside = np.ones((height, width), bool)
    outside[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = False
    np.testing.assert_array_equal(result[outside], image[:height, :width][outside])


def test_no_seam_is_seen_of_a_frame_in_other_colours():
    image = gradient(300, 240)
    portrait = cut(image, (90, 100, 140, 160))
    frame = (portrait.wide + np.array([30, -20, 25])).clip(0, 255).astype(np.uint8)
    result = PasteBack(image, portrait)(frame).astype(int)
    # The picture is smooth, and so is the result: no step between neighbouring pixels.
    for axis in (0, 1):
        assert np.abs(np.diff(result, axis=axis)).max() <= 6


def test_the_face_itself_is_the_frames():
    image = np.full((300, 300, 3), 100, np.uint8)
    portrait = cut(image, (120, 120, 180, 180))
    frame = portrait.wide.copy()
    frame[20:44, 20:44] = 220
    result = PasteBack(image, portrait)(frame)
    assert abs(int(result[150, 150, 0]) - 220) <= 2
