import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from preprocessing import geometry


def reference_rule(box, hw, increase=0.5):
    """The release's rule, spelt out step by step as an independent check."""
    x0, y0, x1, y1 = box
    w, h = x1 - x0, y1 - y0
    wi = max(increase, ((1 + 2 * increase) * h - w) / (2 * w))
    hi = max(increase, ((1 + 2 * increase) * w - h) / (2 * h))
    b = [int(x0 - wi * w), int(y0 - hi * h), int(x1 + wi * w), int(y1 + hi * h)]

    def out(c):
        return max(-c[0], c[2] - hw[1], -c[1], c[3] - hw[0]) > 0

    flag = out(b)
    if flag:
        for low, high, limit in ((0, 2, hw[1]), (1, 3, hw[0])):
            before, after = -b[low], b[high] - limit
            if before + after <= 0 and max(before, after) > 0:
                moved = list(b)
                step = before if before > 0 else -after
                moved[low] += step
                moved[high] += step
                flag = out(moved)
                if not flag:
                    b = moved
    return flag, b


@st.composite
def faces(draw):
    height, width = draw(st.integers(16, 2000)), draw(st.integers(16, 2000))
    x0 = draw(st.floats(0, width - 2))
    y0 = draw(st.floats(0, height - 2))
    x1 = draw(st.floats(x0 + 1, width))
    y1 = draw(st.floats(y0 + 1, height))
    return [x0, y0, x1, y1], (height, width)


@settings(max_examples=300, deadline=None)
@given(faces())
def test_reference_crop_follows_the_stepwise_rule_for_any_face(case):
    box, hw = case
    flag, expected = reference_rule(box, hw)
    got = geometry.reference_crop_box(box, hw)
    assert got.tolist() == expected
    assert (geometry.overshoot(got, hw).max() > 0) == flag


@settings(max_examples=200, deadline=None)
@given(faces())
@example(([0.0, 0.0, 1.0, 470.3873661379784], (471, 16)))
def test_a_driving_crop_that_fits_lies_inside_the_frame(case):
    box, hw = case
    size = geometry.even_size(geometry.tight_box(box, hw))
    placed = geometry.centred_box(geometry.box_centre(box), size, hw)
    assert placed[2:] - placed[:2] == pytest.approx(size)
    if size[0] < hw[1] and size[1] < hw[0]:
        assert placed.min() >= 0
        assert placed[2] <= hw[1] - 1 + 1e-6
        assert placed[3] <= hw[0] - 1 + 1e-6


def test_a_crop_out_of_both_axes_is_not_shifted():
    # The release pads here although a shift would do; the crop must stay centred on the face.
    assert geometry.reference_crop_box([0, 0, 100, 100], (512, 512)).tolist() == [
        -50,
        -50,
        150,
        150,
    ]


def test_tight_box_falls_back_to_the_raw_box_at_the_last_row():
    inside, outside = [5, 5, 95, 95], [5, 5, 95.9, 95.9]
    assert geometry.tight_box(inside, (101, 101)).tolist() == pytest.approx([0.5, 0.5, 99.5, 99.5])
    assert geometry.tight_box(outside, (101, 101)).tolist() == outside


def test_box_vector_puts_y_first_and_takes_a_clip():
    boxes = np.array([[10, 30, 20, 40], [0, 0, 20, 10]], float)
    vectors = geometry.box_vector(boxes, [0, 0, 10, 10])
    np.testing.assert_allclose(vectors, [[3, 1, 1], [0, 0.5, 2]])
    np.testing.assert_allclose(geometry.box_vector(boxes[0], boxes[0]), [0, 0, 1])


def test_zero_padded_crop_equals_cropping_a_padded_image():
    image = np.random.default_rng(0).integers(1, 255, (40, 60, 3), dtype=np.uint8)
    padded = np.pad(image, ((100, 100), (100, 100), (0, 0)))
    edged = np.pad(image, ((100, 100), (100, 100), (0, 0)), mode="edge")
    for box in (
        [-7, -9, 30, 20],
        [50, 30, 90, 70],
        [-20, -20, 80, 80],
        [70, 50, 90, 90],
        [1, 2, 9, 9],
    ):
        x0, y0, x1, y1 = (v + 100 for v in box)
        np.testing.assert_array_equal(geometry.crop(image, box), padded[y0:y1, x0:x1])
        np.testing.assert_array_equal(geometry.crop(image, box, "edge"), edged[y0:y1, x0:x1])


def test_a_box_thinner_than_a_pixel_still_gives_a_picture():
    image = np.full((10, 10, 3), 9, np.uint8)
    assert geometry.crop_resize(image, [3.2, 3.2, 3.4, 3.4], 8).shape == (8, 8, 3)


def test_affine_maps_a_mark_to_where_the_crop_shows_it():
    image = np.zeros((100, 100, 3), np.uint8)
    image[60:64, 40:44] = 255
    box = [20, 30, 80, 90]
    shown = geometry.crop_resize(image, box, 120)
    mapped = geometry.transform_boxes([40, 60, 44, 64], geometry.crop_affine(box, 120))
    ys, xs = np.nonzero(shown[..., 0] > 127)
    assert [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] == mapped.tolist()


def test_driving_crops_have_one_size_and_smooth_centres():
    rng = np.random.default_rng(1)
    centres = 200 + rng.normal(0, 6, (50, 2))
    sides = rng.uniform(80, 120, 50)
    boxes = np.concatenate([centres - sides[:, None] / 2, centres + sides[:, None] / 2], axis=1)
    crops = geometry.driving_crop_boxes(boxes, (400, 400))
    size = crops[:, 2:] - crops[:, :2]
    np.testing.assert_allclose(size, np.broadcast_to(size[0], size.shape))
    assert size[0, 0] == geometry.even_size(geometry.tight_box(boxes[0], (400, 400)))[0]
    jitter = np.abs(np.diff(geometry.box_centre(crops), axis=0)).mean()
    assert jitter < 0.1 * np.abs(np.diff(centres, axis=0)).mean()
