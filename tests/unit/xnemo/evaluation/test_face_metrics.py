"""Face measures with a detector whose answers are known."""

from collections.abc import Mapping

import numpy as np
import pytest

from preprocessing.faces.detector import Face
from preprocessing.faces.pose import FACE_POINTS, rotation
from xnemo.evaluation.face_metrics import face_distances, landmark_distance
from xnemo.evaluation.reenactment import motion_correlation, score


def turned(yaw: float, scale: float = 1.0) -> np.ndarray:
    points = (rotation(np.deg2rad([[yaw, 0.0, 0.0]]))[0] @ FACE_POINTS.T).T
    return (scale * points[:, :2] + 100).astype(np.float32)


class Known:
    """Reads the yaw from the first pixel and who it is from the second; 255 is no face."""

    name = "known"
    model_sha256: Mapping[str, str] = {}
    recognises = True

    def detect(self, rgb_HWC: np.ndarray) -> list[Face]:
        if rgb_HWC[0, 0, 0] == 255:
            return []
        points = turned(float(rgb_HWC[0, 0, 0]))
        box = np.concatenate([points.min(0), points.max(0)])
        return [Face(box, 0.9, points)]

    def embed(self, rgb_HWC: np.ndarray, landmarks_52: np.ndarray) -> np.ndarray:
        descriptor = np.zeros(4, np.float32)
        descriptor[rgb_HWC[0, 1, 0]] = 1
        return descriptor


def picture(yaw: int, who: int) -> np.ndarray:
    x = np.zeros((4, 4, 3), np.uint8)
    x[0, 0], x[0, 1] = yaw, who
    return x


def test_the_portraits_person_with_the_drivers_pose_is_perfect() -> None:
    driving = np.stack([picture(yaw, 1) for yaw in (0, 10, 20)])
    generated = np.stack([picture(yaw, 0) for yaw in (0, 10, 20)])
    found = face_distances(generated, driving, picture(0, 0), Known())
    assert (found.identity, found.found) == (1.0, 1.0)
    assert found.pose_degrees == 0
    assert found.expression == pytest.approx(0, abs=1e-6)


def test_pose_errors_are_in_degrees_and_lost_faces_are_counted() -> None:
    driving = np.stack([picture(20, 1)] * 4)
    generated = np.stack([picture(0, 0), picture(0, 0), picture(0, 1), picture(255, 0)])
    found = face_distances(generated, driving, picture(0, 0), Known())
    assert found.found == 0.75
    assert found.identity == pytest.approx(2 / 3)
    assert found.pose_degrees == pytest.approx(20 / 3, abs=1.5)


def test_nothing_found_is_nan_and_no_error() -> None:
    nothing = np.stack([picture(255, 0)] * 2)
    found = face_distances(nothing, nothing, picture(0, 0), Known())
    assert found.found == 0
    assert np.isnan([found.identity, found.pose_degrees, found.expression]).all()


def test_landmark_distance_forgets_place_turn_and_size() -> None:
    face = turned(0)
    angle = np.deg2rad(33)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert landmark_distance(face @ turn.T * 2.5 + 7, face) == pytest.approx(0, abs=1e-6)
    smile = face.copy()
    smile[3:, 1] -= 10
    assert landmark_distance(smile, face) > 0.02


def test_following_is_one_for_the_truth_and_zero_for_a_still_picture() -> None:
    truth = np.random.default_rng(0).integers(0, 255, (5, 16, 16, 3)).astype(np.uint8)
    assert motion_correlation(truth, truth) == pytest.approx(1)
    assert motion_correlation(np.repeat(truth[:1], 5, 0), truth) == 0
    assert motion_correlation(255 - truth, truth) == pytest.approx(-1)
    perfect = score("it", truth, truth)
    assert (perfect.l1, perfect.ssim) == (0, pytest.approx(1))
    assert np.isnan([perfect.psnr, perfect.lpips]).all()
