import numpy as np
import pytest

from preprocessing.chunk.scan import Scanner
from preprocessing.config import DetectConfig, TrackConfig
from preprocessing.decode import Tick
from preprocessing.decode.frame import frame_from_rgb
from preprocessing.faces import Face
from preprocessing.storage.sample import DETECTED, INTERPOLATED


class Told:
    """A detector that knows where the faces are from the frame's number, hidden in a pixel."""

    name, recognises, model_sha256 = "told", False, {}

    def __init__(self, path):
        self.path = path
        self.asked = []

    def detect(self, rgb_HWC):
        number = int(rgb_HWC[-1, -1, 0]) if rgb_HWC.shape[:2] == (64, 128) else None
        if number is None:
            return []
        self.asked.append(number)
        return [
            Face(np.array(box, np.float32), 0.9, np.zeros((5, 2), np.float32))
            for box in self.path(number)
        ]

    def embed(self, rgb_HWC, landmarks_52):
        return np.zeros(0, np.float32)


def scan(path, frames, stride=8):
    detector = Told(path)
    config = DetectConfig(stride=stride)
    scanner = Scanner(detector, config, TrackConfig(), 25.0)
    out = []
    for number in range(frames):
        picture = np.full((64, 128, 3), number, np.uint8)
        out += scanner.push(Tick(number, number * 40_000, frame_from_rgb(picture, 0, number)))
    return [*out, *scanner.flush()], detector


def test_a_calm_face_is_looked_at_on_the_stride_and_interpolated():
    scanned, detector = scan(lambda n: [(10 + n / 4, 10, 50 + n / 4, 50)], 41)
    assert [s.tick.number for s in scanned] == list(range(41))
    assert detector.asked == [0, 8, 16, 24, 32, 40]
    for one in scanned:
        (detection,) = one.detections.values()
        looked = one.tick.number in detector.asked
        assert detection.flags == (DETECTED if looked else INTERPOLATED)
        assert detection.box[0] == pytest.approx(10 + one.tick.number / 4, abs=0.01)


def test_a_face_that_jumps_is_looked_at_until_looks_agree():
    def path(number):
        x = 10 if number < 12 else 60
        return [(x, 10, x + 40, 50)]

    scanned, detector = scan(path, 33)
    assert {11, 12} <= set(detector.asked)
    for one in scanned:
        for detection in one.detections.values():
            if detection is not None:
                assert detection.box[0] in (10, 60)


def test_coming_and_going_is_found_to_the_frame():
    scanned, _ = scan(lambda n: [(10, 10, 50, 50)] if 5 <= n < 27 else [], 60)
    seen = [s.tick.number for s in scanned if any(v for v in s.detections.values())]
    assert seen == list(range(5, 27))


def test_a_short_loss_is_marked_as_such():
    scanned, _ = scan(lambda n: [] if 6 <= n < 18 else [(10, 10, 50, 50)], 40)
    lost = [s.tick.number for s in scanned if 0 in s.detections and s.detections[0] is None]
    assert lost == list(range(6, 18))
    assert all(set(s.detections) == {0} for s in scanned)


def test_two_people():
    scanned, _ = scan(lambda n: [(5, 10, 45, 50), (70, 10, 110, 50)][: 1 + (n >= 20)], 40)
    assert all(set(s.detections) == ({0} if s.tick.number < 20 else {0, 1}) for s in scanned)


def test_every_frame_on_request():
    _, detector = scan(lambda n: [(10, 10, 50, 50)], 12, stride=1)
    assert detector.asked == list(range(12))


def test_looks_further_apart_than_a_face_may_be_lost_do_not_lose_it():
    scanned, detector = scan(lambda n: [(10, 10, 50, 50)], 60, stride=20)
    assert detector.asked == [0, 20, 40, 59]
    assert all(set(s.detections) == {0} and s.detections[0] is not None for s in scanned)
