import numpy as np
import pytest
import torch

from preprocessing import geometry
from preprocessing.errors import UserError
from preprocessing.faces.detector import Face
from xnemo.animation.animator import to_images
from xnemo.animation.config import FaceConfig
from xnemo.animation.motion import (
    Motion,
    blend_motion,
    box_vectors,
    encode_faces,
    motion_tokens,
    to_tensor,
)
from xnemo.animation.tracking import FaceTrack, Shot, find_faces, rest_frame


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
    track = find_faces(
        frames(5), ScriptedDetector([face(0)], [face(20)], [face(40)]), FaceConfig(every=2)
    )
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
    assert (track.frames_without_face, len(track.shots)) == (1, 1)


def test_the_face_of_the_whole_clip_is_followed_and_not_that_of_the_first_frame():
    person, passer_by = face(20, side=50), face(140, side=55)
    track = find_faces(frames(9), ScriptedDetector([passer_by], *[[person]] * 8))
    np.testing.assert_allclose(track.boxes[:, 0], [20] * 9)


def test_after_a_cut_the_track_goes_on_elsewhere():
    before, after = face(10, side=50), face(130, side=40)
    track = find_faces(frames(14), ScriptedDetector(*[[before]] * 7, *[[after]] * 7))
    np.testing.assert_allclose(track.boxes[:, 0], [10] * 7 + [130] * 7)
    assert [(s.start, s.stop) for s in track.shots] == [(0, 7), (7, 14)]
    assert track.describe().startswith("found in 14 frames; 1 cut;")


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


def track_of(boxes, *shots):
    count = len(boxes)
    shots = shots or (Shot(0, count, 0),)
    return FaceTrack(np.asarray(boxes, float), shots, np.arange(count), (100, 100))


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
        return type("Latent", (), {"face": image.mean(dim=(2, 3))})()

    def place(self, face, box):
        return type("Latent", (), {"tokens": torch.cat([face, box], dim=1)[:, None]})()


def test_motion_is_encoded_in_bounded_chunks_of_the_right_crops():
    clip = [np.full((100, 100, 3), 10 * i, np.uint8) for i in range(11)]
    track = track_of(np.tile([30.0, 30, 60, 60], (11, 1)))
    encoder = CountingEncoder()
    vectors = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32)
    faces = encode_faces(encoder, iter(clip), track, chunk=4)
    assert encoder.batches == [4, 4, 3]
    tokens = motion_tokens(encoder, Motion(faces, track), vectors)
    assert tokens.shape == (11, 1, 6)
    expected = torch.arange(11) * 10 / 127.5 - 1
    torch.testing.assert_close(tokens[:, 0, 0], expected)
    torch.testing.assert_close(tokens[:, 0, 3:], torch.from_numpy(vectors))
    assert torch.equal(encode_faces(CountingEncoder(), clip, track, chunk=100), faces)


def test_motion_is_held_where_the_face_is_away():
    """A title card between two scenes used to be encoded as if it were a face."""
    away = [[]] * 20
    answers = [[face(20)]] * 5 + away + [[face(25)]] * 5
    track = find_faces(frames(30), ScriptedDetector(*answers))
    assert track.shown.tolist() == [*range(5), *[4] * 20, *range(25, 30)]
    assert track.describe().startswith("20 of 30 frames show no face")
    clip = [np.full((100, 200, 3), 8 * i, np.uint8) for i in range(30)]
    faces = encode_faces(CountingEncoder(), clip, track)
    assert torch.equal(faces[5:25], faces[4].expand(20, -1))
    # A few frames that the detector misses are encoded.
    short = find_faces(frames(8), ScriptedDetector([face(20)], *[[]] * 6, [face(25)]))
    assert short.shown.tolist() == list(range(8))


def test_a_flashed_picture_is_not_encoded():
    clip = [np.full((100, 200, 3), 200, np.uint8)] * 12
    rng = np.random.default_rng(0)
    clip[5] = clip[6] = rng.integers(0, 90, (100, 200, 3), dtype=np.uint8)
    answers = [[face(20)]] * 5 + [[]] * 2 + [[face(20)]] * 5
    track = find_faces(clip, ScriptedDetector(*answers))
    assert track.shown.tolist() == [0, 1, 2, 3, 4, 4, 4, 7, 8, 9, 10, 11]
    # The framing is the same on both sides.
    assert len(track.shots) == 1


def test_boxes_do_not_glide_across_a_cut():
    before, after = face(10, side=50), face(100, side=80)
    dark, light = np.zeros((100, 200, 3), np.uint8), np.full((100, 200, 3), 220, np.uint8)
    answers = [[before]] * 6 + [[]] * 4 + [[after]] * 6
    # The cut is at 8, two frames before the face is found again.
    track = find_faces([dark] * 8 + [light] * 8, ScriptedDetector(*answers))
    np.testing.assert_allclose(track.boxes[:, 0], [10] * 8 + [100] * 8)
    assert [(s.start, s.stop) for s in track.shots] == [(0, 8), (8, 16)]
    vectors = box_vectors(track, np.array([0.0, 0, 9, 9]))
    # Each shot is measured against its own face at rest.
    np.testing.assert_allclose(vectors, np.tile([0, 0, 1], (16, 1)), atol=1e-6)


def points(yaw=0.0, mouth=0.0):
    """Landmarks of a face that turns its nose by `yaw` and opens its mouth by `mouth`."""
    nose = 50 + yaw
    return np.array([[35, 40], [65, 40], [nose, 55], [38 - mouth, 70], [62 + mouth, 70]], float)


def test_the_face_at_rest_is_frontal_neutral_and_of_the_usual_size():
    boxes = np.tile([20.0, 20, 80, 80], (7, 1))
    seen = np.stack(
        [points(yaw=12), points(mouth=8), points(), points(), points(), points(), points()]
    )
    boxes[2] = [40, 40, 60, 60]
    boxes[3] += 60
    assert rest_frame(boxes, seen) == 4


def test_a_person_who_sits_down_first_does_not_decide_the_size():
    """The crop had the size of frame 0, and held a third of the face ever after."""
    boxes = [[40, 40, 50, 50]] * 3 + [[20, 20, 80, 80]] * 9
    answers = [[(0.9, box)] for box in boxes]
    clip = frames(12, (100, 200, 3))
    track = find_faces(clip, ScriptedDetector(*answers))
    assert track.shots[0].reference >= 3
    named = find_faces(clip, ScriptedDetector(*answers), FaceConfig(reference="0.04s"), fps=25)
    assert named.shots[0].reference == 1
    vectors = box_vectors(track, np.zeros(4), sigma=0)
    np.testing.assert_allclose(vectors[[0, 5], 2], [1 / 6, 1])


@pytest.mark.parametrize(
    ("faces", "message"),
    [
        ({"reference": 12}, "faces.reference = 12, but the driving video has 12 frames"),
        ({"driving": 3}, "faces.driving = 3, but the driving video shows 2 faces"),
        ({"driving": "150,0,250,90"}, "reaches out of the driving video, which is 200×100"),
    ],
)
def test_what_is_not_there_cannot_be_chosen(faces, message):
    answers = [[face(20, side=50), face(120, side=45)]] * 12
    with pytest.raises(UserError, match=message):
        find_faces(frames(12), ScriptedDetector(*answers), FaceConfig(**faces))


@pytest.mark.parametrize(
    "faces",
    [
        {"portrait": "largest"},
        {"portrait": 0},
        {"driving": "1,2,3"},
        {"driving": "9,9,5,20"},
        {"reference": "first"},
        {"reference": -1},
        {"reference": "1.5"},
        {"every": 0},
    ],
)
def test_choices_that_mean_nothing_are_refused(faces):
    with pytest.raises(UserError, match="faces"):
        FaceConfig(**faces)


def test_another_person_is_chosen_by_number_or_box_through_cuts():
    before = [face(0, side=30), face(170, side=25)]
    after = [face(115, side=25), face(60, side=30)]
    answers = [before] * 6 + [after] * 6
    for choice, expected in ((1, [0, 60]), (2, [170, 115]), ("168,18,198,46", [170, 60])):
        config = FaceConfig(driving=choice)
        track = find_faces(frames(12), ScriptedDetector(*answers), config)
        assert track.boxes[[0, 11], 0].tolist() == expected


def test_a_face_that_nobody_finds_is_where_the_box_says():
    track = find_faces(
        frames(4), ScriptedDetector([], [], [], []), FaceConfig(driving="60,20,100,70")
    )
    np.testing.assert_allclose(track.boxes, [[60, 20, 100, 70]] * 4)
    assert track.describe().startswith("no face found in the given box")


def test_strength_scales_the_way_from_the_face_at_rest():
    boxes = np.array([[10.0, 10, 30, 30], [20, 10, 40, 30], [10, 10, 50, 50]])
    track = track_of(boxes, Shot(0, 3, 1))
    faces = torch.tensor([[0.0], [1.0], [3.0]])
    encoder = CountingEncoder()
    for strength, face_expected, y in (
        (0, [1, 1, 1], 0),
        (0.5, [0.5, 1, 2], 0.25),
        (2, [-1, 1, 5], 1),
    ):
        vectors = box_vectors(track, np.zeros(4), sigma=0, strength=strength)
        np.testing.assert_allclose(vectors[1], [0, 0, 1], atol=1e-6)
        assert vectors[2, 0] == pytest.approx(y)
        tokens = motion_tokens(encoder, Motion(faces, track), vectors, strength)
        torch.testing.assert_close(tokens[:, 0, 0], torch.tensor(face_expected, dtype=torch.float))


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
