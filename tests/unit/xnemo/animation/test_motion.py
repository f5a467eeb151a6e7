import numpy as np
import pytest
import torch

from preprocessing import geometry
from preprocessing.errors import UserError
from preprocessing.faces.detector import Face
from xnemo.animation.animator import to_images
from xnemo.animation.motion import (
    blend_motion,
    box_vectors,
    encode_motion,
    to_tensor,
)
from xnemo.animation.tracking import FaceTrack, find_faces


class ScriptedDetector:
    """Returns, call by call, the faces it was told to."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def detect(self, rgb_HWC):
        if rgb_HWC.shape[:2] != (100, 200):
            # Looked at again with a margin.
            return []
        return [
            Face(np.array(box, np.float32), score, np.zeros((5, 2), np.float32))
            for score, box in self.answers.pop(0)
        ]


def frames(count, shape=(100, 200, 3)):
    return [np.zeros(shape, np.uint8) for _ in range(count)]


def face(x, y=20, side=40, score=0.9):
    return (score, (x, y, x + side, y + side))


def test_gaps_are_filled_in_time_and_ends_are_held():
    detector = ScriptedDetector([], [face(10)], [], [], [face(40)], [])
    track = find_faces(frames(6), detector)
    np.testing.assert_allclose(track.boxes[:, 0], [10, 10, 20, 30, 40, 40])
    assert track.frames_without_face == 4
    assert track.frame_hw == (100, 200)


def test_detection_at_intervals_is_interpolated():
    track = find_faces(frames(5), ScriptedDetector([face(0)], [face(20)], [face(40)]), every=2)
    np.testing.assert_allclose(track.boxes[:, 0], [0, 10, 20, 30, 40])
    assert track.frames_without_face == 0


def test_a_second_person_does_not_take_over():
    near, passer_by = face(20), face(120, side=45)
    track = find_faces(
        frames(3), ScriptedDetector([near], [passer_by, face(24)], [face(130, side=45), face(28)])
    )
    np.testing.assert_allclose(track.boxes[:, 0], [20, 24, 28])


def test_the_most_prominent_face_is_followed_and_boxes_stay_in_the_frame():
    track = find_faces(frames(1), ScriptedDetector([face(10, side=20), face(170, side=60)]))
    np.testing.assert_allclose(track.boxes[0], [170, 20, 200, 80])


def test_nobody_takes_over_where_the_face_is_missed():
    """One missed detection used to hand the track to whoever else was there, for good."""
    person, other = face(20, side=50), face(120, side=45)
    answers = [[person, other]] * 3 + [[other]] + [[person, other]] * 3
    track = find_faces(frames(7), ScriptedDetector(*answers))
    np.testing.assert_allclose(track.boxes[:, 0], [20] * 7)
    assert (track.frames_without_face, track.jumps) == (1, 0)


def test_the_face_of_the_whole_clip_is_followed_and_not_that_of_the_first_frame():
    person, passer_by = face(20, side=50), face(140, side=55)
    track = find_faces(frames(9), ScriptedDetector([passer_by], *[[person]] * 8))
    np.testing.assert_allclose(track.boxes[:, 0], [20] * 9)


def test_after_a_cut_the_track_goes_on_elsewhere():
    before, after = face(10, side=50), face(130, side=40)
    track = find_faces(frames(14), ScriptedDetector(*[[before]] * 7, *[[after]] * 7))
    np.testing.assert_allclose(track.boxes[:, 0], [10] * 7 + [130] * 7)
    assert (track.frames_without_face, track.jumps) == (0, 1)


@pytest.mark.parametrize("fraction", [1.0, 0.7])
def test_a_face_that_fills_the_frame_is_looked_for_with_a_margin(fraction):
    class OnlySmallFaces:
        """Finds the white square, unless it fills more than half of the image's side."""

        def detect(self, rgb_HWC):
            rows, columns = np.nonzero(rgb_HWC[..., 0] == 255)
            side = columns.max() - columns.min() + 1
            if side > 0.7 * fraction * rgb_HWC.shape[1]:
                return []
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            return [Face(np.array(box, np.float32), 0.9, np.zeros((5, 2), np.float32))]

    close_up = [np.full((60, 60, 3), 255, np.uint8)] * 2
    track = find_faces(close_up, OnlySmallFaces())
    np.testing.assert_allclose(track.boxes, [[0, 0, 60, 60]] * 2, atol=1)
    assert track.frames_without_face == 0


@pytest.mark.parametrize(("count", "message"), [(0, "has no frames"), (2, "shows no face in any")])
def test_a_clip_without_frames_or_faces_is_refused(count, message):
    with pytest.raises(UserError, match=f"the clip {message}"):
        find_faces(frames(count), ScriptedDetector([], []), name="the clip")


def track_of(boxes):
    return FaceTrack(np.asarray(boxes, float), 0, (100, 100))


def test_box_vectors_by_mode():
    track = track_of([[10, 10, 30, 30], [20, 10, 40, 30], [10, 10, 50, 50]])
    reference = np.array([0.0, 0, 40, 40])
    constant = box_vectors(track, reference, "constant")
    np.testing.assert_array_equal(constant, np.tile([0, 0, 1], (3, 1)))
    real = box_vectors(track, reference, "real", sigma=0)
    np.testing.assert_allclose(real, geometry.box_vector(track.boxes, reference), rtol=1e-6)
    relative = box_vectors(track, reference, "relative", sigma=0)
    np.testing.assert_allclose(relative, [[0, 0, 1], [0, 0.5, 1], [0.5, 0.5, 2]], rtol=1e-6)


def test_relative_motion_starts_at_the_portraits_place_even_when_smoothed():
    rng = np.random.default_rng(0)
    boxes = np.array([30, 30, 60, 60]) + rng.normal(0, 2, (20, 4))
    vectors = box_vectors(track_of(boxes), np.zeros(4), "relative", sigma=3)
    np.testing.assert_allclose(vectors[0], [0, 0, 1], atol=1e-6)
    rough = box_vectors(track_of(boxes), np.zeros(4), "relative", sigma=0)
    assert np.abs(np.diff(vectors, axis=0)).mean() < 0.4 * np.abs(np.diff(rough, axis=0)).mean()


class CountingEncoder(torch.nn.Module):
    """Says of each crop its mean colour and its box vector; remembers batch sizes."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.config = {"image_size": 16}
        self.batches = []

    def forward(self, image, box):
        self.batches.append(len(image))
        tokens = torch.cat([image.mean(dim=(2, 3)), box], dim=1)[:, None]
        return type("Latent", (), {"tokens": tokens})()


def test_motion_is_encoded_in_bounded_chunks_of_the_right_crops():
    clip = [np.full((100, 100, 3), 10 * i, np.uint8) for i in range(11)]
    boxes = np.tile([30.0, 30, 60, 60], (11, 1))
    encoder = CountingEncoder()
    vectors = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32)
    tokens = encode_motion(encoder, iter(clip), track_of(boxes), vectors, chunk=4)
    assert encoder.batches == [4, 4, 3]
    assert tokens.shape == (11, 1, 6)
    expected = torch.arange(11) * 10 / 127.5 - 1
    torch.testing.assert_close(tokens[:, 0, 0], expected)
    torch.testing.assert_close(tokens[:, 0, 3:], torch.from_numpy(vectors))
    once = encode_motion(CountingEncoder(), clip, track_of(boxes), vectors, chunk=100)
    assert torch.equal(once, tokens)


def test_two_driving_videos_blend_linearly_over_the_shorter():
    a, b = torch.zeros(5, 2, 3), torch.ones(7, 2, 3)
    blended = blend_motion(a, b, 0.0, 1.0)
    torch.testing.assert_close(blended[:, 0, 0], torch.linspace(0, 1, 5))
    assert torch.equal(blend_motion(a, b, 0.0, 0.0), a)


def test_pictures_survive_the_way_to_tensors_and_back():
    pictures = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 3), dtype=np.uint8)
    x = to_tensor(pictures)
    assert x.min() >= -1
    assert x.max() <= 1
    np.testing.assert_array_equal(to_images(x), pictures)
    np.testing.assert_array_equal(to_images(torch.full((1, 3, 1, 1), 9.0)), 255)
