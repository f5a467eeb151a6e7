"""Augmentation of driving crops and samples."""

import cv2
import numpy as np
import skimage.data

from xnemo.data.augment import _piecewise_affine, change_appearance, draw_augmentation
from xnemo.data.config import AugmentConfig

PICTURE = cv2.resize(skimage.data.astronaut(), (256, 256), interpolation=cv2.INTER_AREA)
OFF = AugmentConfig(
    brightness=0, contrast=0, saturation=0, hue=0, scale=0, aspect=0, shift=0, warp=0
)
BOX = np.array([60.0, 20.0, 188.0, 148.0])


def draw(config: AugmentConfig, seed: int = 0, size: int = 128):
    return draw_augmentation(config, size, np.random.default_rng(seed))


def test_nothing_is_the_plain_crop() -> None:
    assert np.array_equal(draw(OFF).apply(PICTURE, BOX), PICTURE[20:148, 60:188])


def test_a_large_face_is_averaged_not_skipped() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    crop = draw(OFF, size=32).apply(noise, np.array([0.0, 0.0, 512.0, 512.0]))
    assert crop.std() < 12
    assert noise.std() > 70


def test_scale_stays_within_its_range_and_reaches_it() -> None:
    config = AugmentConfig(
        brightness=0, contrast=0, saturation=0, hue=0, aspect=0, shift=0, warp=0, scale=0.3
    )
    spans = np.array([draw(config, seed).stretch_2[0] for seed in range(400)])
    assert np.array_equal(draw(OFF).stretch_2, [1, 1])
    assert 0.7 <= spans.min() < 0.72
    assert 1.28 < spans.max() <= 1.3


def test_the_warp_moves_its_nodes_and_is_affine_between() -> None:
    nodes = np.random.default_rng(0).standard_normal((3, 3, 2))
    field = _piecewise_affine(nodes, 400)
    # Pixel centres lie half a pixel off the nodes.
    assert np.allclose(field[0, 0], nodes[0, 0], atol=0.02)
    assert np.allclose(field[199, 199], nodes[1, 1], atol=0.03)
    # Second differences vanish inside a triangle.
    inside = field[10:60, 10:60]
    assert np.abs(np.diff(inside, 2, axis=0)).max() < 1e-5
    assert np.abs(np.diff(inside, 2, axis=1)).max() < 1e-5


def test_disabling_one_kind_does_not_change_the_others() -> None:
    whole, no_warp = AugmentConfig(), AugmentConfig(warp=0)
    for seed in range(10):
        a, b = draw(whole, seed).colour_34, draw(no_warp, seed).colour_34
        assert (a is None) == (b is None)
        assert a is None or np.array_equal(a, b)


def test_colour_keeps_grey_grey_without_brightness() -> None:
    config = AugmentConfig(brightness=0, contrast=0, colour_probability=1, warp=0, scale=0)
    grey = np.full((64, 64, 3), 128, np.uint8)
    crop = draw(config, 3).apply(grey, np.array([0.0, 0.0, 64.0, 64.0]))
    assert np.abs(crop.astype(int) - 128).max() <= 1


def test_one_draw_serves_every_frame_alike() -> None:
    augmentation = draw(AugmentConfig(), 5)
    first, second = (augmentation.apply(PICTURE, BOX) for _ in range(2))
    assert np.array_equal(first, second)


def appearance(seed: int = 0, **strengths: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    frames = np.random.default_rng(1).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    boxes = np.array([[2.0, 3.0, 12.0, 15.0]] * 3)
    points = np.tile([[4.0, 6], [9, 5], [7, 8], [5, 12], [10, 11]], (3, 1, 1))
    config = AugmentConfig(**strengths)
    return change_appearance(frames, boxes, points, config, np.random.default_rng(seed))


def test_appearance_is_left_alone_by_default():
    frames, boxes, _ = appearance()
    np.testing.assert_array_equal(boxes[0], [2, 3, 12, 15])
    np.testing.assert_array_equal(frames, appearance(seed=5)[0])


def test_mirroring_moves_box_and_landmarks_with_their_pixels():
    plain, boxes, points = appearance()
    mirrored, moved, across = appearance(mirror=1.0)
    x0, y0, x1, y1 = (int(value) for value in boxes[0])
    a, b, c, d = (int(value) for value in moved[0])
    np.testing.assert_array_equal(mirrored[0, b:d, a:c][:, ::-1], plain[0, y0:y1, x0:x1])
    # The eye that appears on the left is the other one, at its mirrored place.
    np.testing.assert_array_equal(across[0, 0], [30 - points[0, 1, 0], points[0, 1, 1]])
    np.testing.assert_array_equal(across[0, 2], [30 - points[0, 2, 0], points[0, 2, 1]])
    np.testing.assert_array_equal(across[0, 4], [30 - points[0, 3, 0], points[0, 3, 1]])


def test_a_colour_change_is_the_same_in_every_frame_of_a_sample():
    frames = np.tile(
        np.random.default_rng(1).integers(0, 256, (1, 8, 8, 3), np.uint8), (3, 1, 1, 1)
    )
    config, nowhere = AugmentConfig(appearance=1.0), (np.zeros((3, 4)), np.zeros((3, 5, 2)))
    changed, *_ = change_appearance(frames, *nowhere, config, np.random.default_rng(2))
    assert np.abs(changed[0].astype(int) - frames[0]).mean() > 5
    np.testing.assert_array_equal(changed[0], changed[2])
    other, *_ = change_appearance(frames, *nowhere, config, np.random.default_rng(3))
    assert np.abs(changed[0].astype(int) - other[0]).mean() > 5
