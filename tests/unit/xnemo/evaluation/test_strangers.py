"""The measures on strangers tell apart what follows, what stands still, and who it is."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from preprocessing.faces.detector import Face
from xnemo.animation.animator import Portrait
from xnemo.animation.config import AnimateConfig
from xnemo.data.motion_numbers import READOUT_COLUMNS
from xnemo.evaluation import strangers as module
from xnemo.evaluation.strangers import LinearReader, Stranger, score_following, score_latents

SIDE, MOTIONS = 64, 12
YAW, JAW = READOUT_COLUMNS.index("yaw"), READOUT_COLUMNS.index("jawOpen")
BOX = np.array([16.0, 16, 48, 48])


class MeanColours(nn.Module):
    """An encoder whose latent is the mean of each colour of the crop."""

    def __init__(self) -> None:
        super().__init__()
        self.config = {"image_size": 16}
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, image_NCHW, box_N3):
        face = image_NCHW.mean((2, 3))
        return SimpleNamespace(face=face, tokens=torch.cat([face, box_N3], 1)[:, None])


def stranger(number: int, seed: int, blue: float = 0.0) -> Stranger:
    """Frames whose red is the yaw, whose green is the jaw, and whose blue is the person."""
    numbers = np.zeros((1 + MOTIONS, len(READOUT_COLUMNS)))
    numbers[1:, [YAW, JAW]] = np.random.default_rng(seed).uniform(-1, 1, (MOTIONS, 2))
    frames = np.zeros((1 + MOTIONS, SIDE, SIDE, 3))
    frames[..., :2] = numbers[:, None, None, [YAW, JAW]]
    frames[..., 2] = blue
    pixels = (127.5 + 100 * frames).round().astype(np.uint8)
    return Stranger(f"stranger {number}", pixels, np.tile(BOX, (1 + MOTIONS, 1)), numbers)


@pytest.fixture(scope="module")
def reader() -> LinearReader:
    people = [stranger(100 + n, seed=50 + n) for n in range(4)]
    return LinearReader(MeanColours(), people)


def test_motion_is_read_and_identity_is_not_there(reader):
    found = score_latents(reader, [stranger(n, seed=1) for n in range(3)])
    assert set(found.r2) == {"yaw", "jawOpen"}
    assert min(found.r2.values()) > 0.98
    assert found.identity_share < 1e-6


def test_a_latent_that_tells_the_person_is_found_out(reader):
    people = [stranger(n, seed=1, blue=n - 1.0) for n in range(3)]
    found = score_latents(reader, people)
    assert found.identity_share > 0.4
    assert found.identity_accuracy == 1.0
    assert found.identity_chance == pytest.approx(1 / 3)


class Recolours:
    """Stands for an animator: the result's colours are the driving crops'."""

    def __init__(self, follows: bool) -> None:
        config = SimpleNamespace(image_size=SIDE, motion=SimpleNamespace(image_size=16))
        self.networks = SimpleNamespace(config=config, motion_encoder=MeanColours())
        self.follows = follows

    def prepare_portrait(self, image, config):
        return Portrait(BOX, BOX, image, image, 1)

    def denoise(self, portrait, tokens, config):
        assert portrait.box.tolist() == BOX.tolist()
        return tokens[:, 0, :3] if self.follows else torch.zeros(len(tokens), 3)

    def decode(self, latents):
        for colour in latents.numpy():
            picture = np.clip((colour + 1) * 127.5, 0, 255).round().astype(np.uint8)
            yield np.tile(picture, (SIDE, SIDE, 1))


@pytest.fixture
def people() -> list[Stranger]:
    return [stranger(n, seed=1, blue=0.2 * n) for n in range(3)]


def scores(animator, people, reader):
    result = score_following(animator, people, reader, AnimateConfig())
    return {s.method: s for s in result.scores}, result


def test_following_is_told_from_standing_still(people, reader):
    by_method, result = scores(Recolours(follows=True), people, reader)
    assert by_method[module.TRAINED].follow > 0.98
    assert by_method[module.TRAINED].follow_face > 0.98
    assert by_method[module.OWN].l1 < by_method[module.TRAINED].l1
    assert by_method[module.STILL].follow == pytest.approx(0, abs=1e-6)
    assert by_method[module.REPEATED].follow == 0
    # A person's blue is copied along with the motion.
    assert by_method[module.COPIED].l1 > 0.01
    assert min(result.read_back.values()) > 0.98
    assert min(result.read_true.values()) > 0.98
    portrait, driving, made, truth = result.pictures[0]
    assert portrait.shape == (SIDE, SIDE, 3)
    assert driving.shape == made.shape == truth.shape == (MOTIONS, SIDE, SIDE, 3)


def test_a_model_that_stands_still_follows_nothing(people, reader):
    by_method, result = scores(Recolours(follows=False), people, reader)
    assert by_method[module.TRAINED].follow == 0
    assert result.read_back == {"yaw": 0.0, "jawOpen": 0.0}
    assert min(result.read_true.values()) > 0.98


def test_places_are_relative_to_the_neutral_frame():
    person = stranger(0, seed=1)
    boxes = person.boxes.copy()
    boxes[1] += [8, 0, 8, 0]
    places = replace(person, boxes=boxes).places()
    assert places[0].tolist() == [0, 0, 1]
    assert places[1].tolist() == [0, 0.25, 1]


def test_rendered_people_share_motion_and_differ(monkeypatch):
    """Strangers make the same motions, and frame 0 is neutral."""

    class Centre:
        def detect(self, rgb):
            side = len(rgb)
            box = np.array([0.25, 0.25, 0.75, 0.75]) * side
            return [Face(box, 1.0, np.zeros((5, 2)))]

    monkeypatch.setattr(module, "_SIDE", 32)
    seen = []
    first, second = module.make_strangers(
        2, 2, Centre(), on_person=lambda done, total: seen.append((done, total))
    )
    assert seen == [(0, 2), (1, 2)]
    assert np.array_equal(first.numbers, second.numbers)
    assert not first.numbers[0].any()
    assert first.numbers[1:].any()
    assert not np.array_equal(first.frames, second.frames)
    (other,) = module.make_reader_people(1, 2, Centre(), first=2)
    assert not np.array_equal(other.numbers, first.numbers)
