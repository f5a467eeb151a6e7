"""Probes find what was put in, and nothing where nothing was."""

import numpy as np
import pytest

from xnemo.evaluation.probes import fit_linear_reader, identity_accuracy, motion_r2


@pytest.fixture(scope="module")
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_linear_motion_is_found_on_people_not_seen(rng: np.random.Generator) -> None:
    motion = rng.normal(size=(240, 3))
    people = np.repeat(np.arange(6), 40)
    offsets = rng.normal(size=(6, 16))[people]
    latents = motion @ rng.normal(size=(3, 16)) + 0.05 * rng.normal(size=(240, 16)) + 0.2 * offsets
    assert (motion_r2(latents, motion, people) > 0.95).all()


def test_noise_knows_nothing(rng: np.random.Generator) -> None:
    people = np.repeat(np.arange(6), 40)
    r2 = motion_r2(rng.normal(size=(240, 16)), rng.normal(size=(240, 2)), people)
    assert (abs(r2) < 0.15).all()


def test_more_features_than_frames_do_not_fool_the_probe(rng: np.random.Generator) -> None:
    people = np.repeat(np.arange(4), 10)
    r2 = motion_r2(rng.normal(size=(40, 500)), rng.normal(size=(40, 1)), people)
    assert r2 < 0.3


def test_identity_is_found_where_it_is_and_not_where_it_is_not(rng: np.random.Generator) -> None:
    people = np.repeat(np.arange(5), 40)
    clips = np.tile(np.repeat(np.arange(2), 20), 5) + 2 * people
    leaky = rng.normal(size=(5, 16))[people] + 0.3 * rng.normal(size=(200, 16))
    found = identity_accuracy(leaky, people, clips)
    assert found.chance == pytest.approx(0.2)
    assert found.accuracy > 0.95
    assert identity_accuracy(rng.normal(size=(200, 16)), people, clips).accuracy < 0.4


def test_a_clip_is_never_on_both_sides(rng: np.random.Generator) -> None:
    """Latents that know the clip and nothing of the person must not name the person."""
    people = np.repeat(np.arange(4), 40)
    clips = np.tile(np.repeat(np.arange(2), 20), 4) + 2 * people
    latents = rng.normal(size=(8, 32))[clips] + 0.01 * rng.normal(size=(160, 32))
    assert identity_accuracy(latents, people, clips).accuracy < 0.6


def test_too_few_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="three"):
        motion_r2(np.zeros((4, 2)), np.zeros((4, 1)), [0, 0, 1, 1])
    with pytest.raises(ValueError, match="two identities"):
        identity_accuracy(np.zeros((4, 2)), [0, 0, 1, 1], [0, 1, 2, 2])


def test_a_faint_parameter_has_a_penalty_of_its_own():
    """A large, clear parameter beside it would otherwise choose none for both."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(8), 10)
    latents = rng.normal(size=(80, 40))
    clear = 30 * latents[:, 0]
    faint = latents[:, 1] + 4 * rng.normal(size=80)
    read = fit_linear_reader(latents, np.stack([clear, faint], axis=1), groups)
    fresh = rng.normal(size=(500, 40))
    errors = read(fresh) - np.stack([30 * fresh[:, 0], fresh[:, 1]], axis=1)
    assert np.square(errors[:, 0]).mean() < 1
    # Reading nothing at all is wrong by the variance of 1, and no penalty by 14 and more.
    assert np.square(errors[:, 1]).mean() < 3
