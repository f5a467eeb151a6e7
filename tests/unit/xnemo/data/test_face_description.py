"""Descriptions of a face: the same for the same face, other ones when it moves."""

import cv2
import numpy as np
import pytest
import skimage.data

from xnemo.data.face_description import FACE_NUMBERS, describe_face

# The astronaut of scikit-image: her face and its landmarks in pixels.
PICTURE = skimage.data.astronaut()
BOX = np.array([172.0, 62.0, 280.0, 190.0])
POINTS = np.array([[201.0, 115], [242, 111], [224, 135], [204, 153], [246, 151]])


def moved(affine: np.ndarray, size: int = 512) -> np.ndarray:
    """Describe the face after the picture, box and landmarks went through a map."""
    picture = cv2.warpAffine(PICTURE, affine, (size, size), flags=cv2.INTER_AREA)
    corners = BOX.reshape(2, 2) @ affine[:, :2].T + affine[:, 2]
    return describe_face(picture, corners.ravel(), POINTS @ affine[:, :2].T + affine[:, 2])


def test_position_and_scale_do_not_matter() -> None:
    plain = describe_face(PICTURE, BOX, POINTS)
    assert plain.shape == (FACE_NUMBERS,)
    shifted = moved(np.array([[1.0, 0, 60], [0, 1, 100]]))
    smaller = moved(np.array([[0.5, 0, 10], [0, 0.5, 20]]), 256)
    assert np.abs(shifted - plain).max() < 0.01
    # Pixels half as fine: their lightness differs a little, by less than talking changes it.
    assert np.abs(smaller - plain).max() < 0.5


def test_a_turned_head_moves_landmarks_and_leaves_the_cells_in_place() -> None:
    turn = cv2.getRotationMatrix2D((226, 126), 10, 1)
    plain, turned = describe_face(PICTURE, BOX, POINTS), moved(turn)
    points, cells = np.abs(turned - plain)[:10], np.abs(turned - plain)[10:]
    assert points.max() > 2
    assert cells.max() < 0.3


def test_an_opened_mouth_darkens_the_cells_of_the_mouth_alone() -> None:
    opened = PICTURE.copy()
    cv2.ellipse(opened, (225, 156), (14, 10), 0, 0, 360, (30, 5, 5), -1)
    plain = describe_face(PICTURE, BOX, POINTS)
    change = (describe_face(opened, BOX, POINTS) - plain)[10:].reshape(8, 8)
    assert np.unravel_index(change.argmin(), change.shape)[0] in (5, 6)
    assert change.min() < -3
    assert np.abs(change[:4]).max() == 0
    np.testing.assert_array_equal((describe_face(opened, BOX, POINTS) - plain)[:10], 0)


def test_large_pictures_are_averaged_not_sampled() -> None:
    # A pattern of one pixel has the lightness of its mean, at any scale.
    large = np.zeros((1024, 1024, 3), np.uint8)
    large[::2] = 255
    cells = describe_face(large, 2 * BOX, 2 * POINTS)[10:]
    assert np.ptp(cells) < 0.3


@pytest.mark.parametrize(
    "points",
    [np.full((5, 2), np.nan), np.zeros((5, 2)), np.where(np.eye(5, 2) > 0, np.nan, POINTS)],
)
def test_lost_landmarks_describe_nothing(points: np.ndarray) -> None:
    assert np.isnan(describe_face(PICTURE, BOX, points)).all()


def test_faces_of_a_few_pixels_and_beyond_the_border_are_described() -> None:
    tiny = describe_face(PICTURE[::40, ::40], BOX / 40, POINTS / 40 * [1, 1])
    outside = describe_face(PICTURE, BOX - 200, POINTS - 200)
    assert tiny.shape == outside.shape == (FACE_NUMBERS,)
    assert np.isfinite(outside).all()
