import cv2
import numpy as np
import pytest
import skimage.data

from preprocessing.chunk.filters import FILTERS, THRESHOLDS, drop_reason
from preprocessing.chunk.overlay import occlusion_of, overlay_of
from preprocessing.chunk.score import motion_of, sharpness_of
from preprocessing.config import FilterConfig, PreprocessConfig
from preprocessing.storage.index import SCORES
from xnemo.config import field_names


@pytest.fixture(scope="module")
def face():
    return np.ascontiguousarray(skimage.data.astronaut()[40:200, 160:290].mean(axis=2)).astype(
        np.uint8
    )


def good():
    return {
        "face_px": 200, "picture_px": 512, "detection": 0.9, "detected_fraction": 1.0, "others": 0.0,  # noqa: E501
        "out_of_frame": 0.0, "pad_fraction": 0.0, "yaw": 5.0, "pitch": -5.0, "roll": 0.0,
        "sharpness": 0.4, "exposure": 0.5, "contrast": 0.4, "motion": 0.02, "repeated": 0.0,
        "occlusion": 0.1, "overlay": 0.0,
    }  # fmt: skip


BAD = {
    "face_too_small": {"face_px": 40}, "picture_too_small": {"picture_px": 112},
    "unsure_face": {"detection": 0.3}, "face_lost": {"detected_fraction": 0.5},
    "several_faces": {"others": 0.4}, "out_of_frame": {"out_of_frame": 0.9},
    "too_much_padding": {"pad_fraction": 0.9}, "turned_away": {"yaw": -85.0},
    "tilted_up_or_down": {"pitch": 70.0}, "tilted_sideways": {"roll": -60.0},
    "blurred": {"sharpness": 0.05}, "too_dark": {"exposure": 0.02},
    "too_bright": {"exposure": 0.99}, "flat": {"contrast": 0.01}, "still": {"motion": 0.0002},
    "frozen": {"repeated": 0.9}, "occluded": {"occlusion": 0.8}, "overlaid": {"overlay": 0.9},
}  # fmt: skip


def test_a_good_clip_passes_every_filter():
    assert drop_reason(good(), FilterConfig()) is None


def test_every_filter_drops_its_own_kind():
    assert set(BAD) == set(FILTERS)
    for reason, change in BAD.items():
        assert drop_reason({**good(), **change}, FilterConfig()) == reason


def test_the_first_filter_names_the_reason_and_a_missing_score_drops_nothing():
    assert drop_reason({**good(), "face_px": 1, "sharpness": 0}, FilterConfig()) == "face_too_small"
    assert drop_reason({**good(), "overlay": None}, FilterConfig()) is None


def test_every_threshold_is_some_filter_s():
    used = {name for names in THRESHOLDS.values() for name in names}
    assert used == set(field_names(FilterConfig))
    assert set(THRESHOLDS) <= set(SCORES)
    assert "filters.min_face_px" in set(field_names(PreprocessConfig))


def test_sharpness_falls_with_blur_and_hardly_with_brightness(face):
    values = [sharpness_of(cv2.GaussianBlur(face, (0, 0), s)) for s in (0.01, 1, 2, 4)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 2 * values[3]
    assert sharpness_of((face * 0.6).astype(np.uint8)) == pytest.approx(values[0], abs=0.05)
    across = cv2.blur(face, (15, 1))
    assert sharpness_of(across) < 0.6 * values[0]
    assert sharpness_of(np.full((64, 64), 7, np.uint8)) == 0


def test_a_still_picture_has_no_motion_even_with_noise_of_coding(face):
    rng = np.random.default_rng(0)
    small = cv2.resize(face, (48, 48))
    still = np.stack([np.clip(small + rng.normal(0, 0.3, small.shape), 0, 255)] * 1 + [small] * 59)
    assert motion_of(still.astype(np.uint8)) < FilterConfig().min_motion
    talking = np.stack([np.roll(small, round(np.sin(k / 4)), axis=0) for k in range(60)])
    assert motion_of(talking) > 4 * FilterConfig().min_motion
    assert motion_of(small[None]) == 0


def swaying(face, frames=16, text=""):
    """A face that moves before a wall; text does not move with it."""
    stack, boxes, points = [], [], []
    for k in range(frames):
        x, y = 30 + round(9 * np.sin(k)), 20 + round(6 * np.cos(1.3 * k))
        picture = np.full((220, 200), 120, np.uint8)
        picture[y : y + 160, x : x + 130] = face
        for line, words in enumerate(text.split("|") if text else []):
            place = (40, 120 + 26 * line)
            cv2.putText(picture, words, place, cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 2)
        stack.append(picture)
        boxes.append((x + 15, y + 20, x + 110, y + 145))
        points.append([(x + 45, y + 62), (x + 87, y + 64), (x + 63, y + 88)] + [(x, y)] * 2)
    return np.stack(stack), np.array(boxes, float), np.array(points, float)


def test_text_that_stands_over_a_moving_face_is_seen(face):
    assert overlay_of(*swaying(face)) < 0.2
    assert overlay_of(*swaying(face, text="SUBSCRIBE|NOW")) > FilterConfig().max_overlay
    assert overlay_of(*(part[:2] for part in swaying(face))) == 0


def test_something_that_passes_before_a_face_is_seen(face):
    small = cv2.resize(face, (48, 48))
    faces = np.stack([np.roll(small, k % 2, axis=0) for k in range(60)])
    clean = occlusion_of(faces)
    covered = faces.copy()
    covered[20:35, 20:48, 6:42] = 240
    assert occlusion_of(covered) > max(2 * clean, FilterConfig().max_occlusion)
    assert occlusion_of(faces[:5]) == 0
