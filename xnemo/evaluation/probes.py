"""What a linear reader finds in the motion latent: motion, it should; identity, it should not."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Strengths of the ridge that cross-validation chooses from, as shares of the features' variance.
_STRENGTHS = np.logspace(-4, 3, 15)


@dataclass(frozen=True)
class IdentityProbe:
    """How well identity can be read."""

    # Share of frames whose person is named rightly, each person counted alike.
    accuracy: float
    # What guessing reaches.
    chance: float


def motion_r2(
    latents_ND: NDArray, parameters_NP: NDArray, groups_N: ArrayLike
) -> NDArray[np.float64]:
    """Return R² per parameter (P,) of a ridge regression, on groups it was not fitted to.

    Every group is predicted by a regression fitted to all others, with a strength chosen among
    those others in the same way. R² is against each held-out group's own mean, so a constant offset
    between people is no merit and no fault; 1 is perfect, 0 no better than that mean.

    Args:
        latents_ND: One row a frame.
        parameters_NP: Known motion, as yaw, mouth and eyes.
        groups_N: What must not be on both sides: the identity, or the clip.

    Raises:
        ValueError: there are fewer than three groups.
    """
    x, y = np.asarray(latents_ND, np.float64), np.asarray(parameters_NP, np.float64)
    groups = _folds(groups_N)
    if len(groups) < 3:
        raise ValueError(f"{len(groups)} groups, and three are needed to choose and to judge")
    left, total = np.zeros(y.shape[1]), np.zeros(y.shape[1])
    for held_out in groups:
        rest = [group for group in groups if group is not held_out]
        strength = _choose(x, y, rest)
        train = np.concatenate(rest)
        predicted = _ridge(x[train], y[train], x[held_out], strength)
        residual = y[held_out] - predicted
        left += _spread(residual)
        total += _spread(y[held_out])
    return 1 - left / np.maximum(total, 1e-12)


def identity_accuracy(
    latents_ND: NDArray, identities_N: ArrayLike, clips_N: ArrayLike
) -> IdentityProbe:
    """Return how well a linear classifier names the person, on clips it was not fitted to.

    Raises:
        ValueError: fewer than two people have two clips or more.
    """
    x = np.asarray(latents_ND, np.float64)
    identities, clips = np.asarray(identities_N), np.asarray(clips_N)
    clips_of = {p: np.unique(clips[identities == p]) for p in np.unique(identities)}
    people = [p for p, own in clips_of.items() if len(own) >= 2]
    if len(people) < 2:
        raise ValueError("two people with two clips each are needed")
    inside = np.isin(identities, people)
    x, identities, clips = x[inside], identities[inside], clips[inside]
    targets = (identities[:, None] == np.array(people)[None]).astype(np.float64)
    # The n-th clip of everyone is held out together, so that everyone stays represented.
    turn = np.zeros(len(x), int)
    for person in people:
        for number, clip in enumerate(clips_of[person]):
            turn[(identities == person) & (clips == clip)] = number
    right = {person: [0, 0] for person in people}
    for number in range(min(len(clips_of[p]) for p in people)):
        test = turn == number
        rest = _folds(turn[~test])
        fitted_x, fitted_y = x[~test], targets[~test]
        strength = _choose(fitted_x, fitted_y, rest) if len(rest) > 1 else 1.0
        scores = _ridge(fitted_x, fitted_y, x[test], strength)
        for person, guess in zip(identities[test], scores.argmax(1), strict=True):
            right[person][0] += people[guess] == person
            right[person][1] += 1
    accuracy = float(np.mean([hits / max(tries, 1) for hits, tries in right.values()]))
    return IdentityProbe(accuracy, 1 / len(people))


def _folds(groups_N: ArrayLike) -> list[NDArray[np.int64]]:
    groups = np.asarray(groups_N)
    return [np.flatnonzero(groups == name) for name in np.unique(groups)]


def _choose(x: NDArray, y: NDArray, folds: list[NDArray[np.int64]]) -> float:
    """Return the strength that predicts each fold best from the others."""
    errors = np.zeros(len(_STRENGTHS))
    for held_out in folds:
        train = np.concatenate([fold for fold in folds if fold is not held_out])
        for number, predicted in enumerate(_ridge_path(x[train], y[train], x[held_out])):
            errors[number] += float(_spread(y[held_out] - predicted).sum())
    return float(_STRENGTHS[errors.argmin()])


def _ridge(x: NDArray, y: NDArray, at: NDArray, strength: float) -> NDArray:
    return _ridge_path(x, y, at, (strength,))[0]


def _ridge_path(
    x: NDArray, y: NDArray, at: NDArray, strengths: ArrayLike = _STRENGTHS
) -> list[NDArray]:
    """Fit and predict for several strengths with one decomposition."""
    mean_x, mean_y = x.mean(0), y.mean(0)
    spread = np.maximum(x.std(0), 1e-8)
    u, s, vt = np.linalg.svd((x - mean_x) / spread, full_matrices=False)
    inside, outside = u.T @ (y - mean_y), ((at - mean_x) / spread) @ vt.T
    return [
        outside @ ((s / (s**2 + strength * len(x)))[:, None] * inside) + mean_y
        for strength in np.atleast_1d(strengths)
    ]


def _spread(values_NP: NDArray) -> NDArray:
    """Return the sum of squares about the mean, per column."""
    return ((values_NP - values_NP.mean(0)) ** 2).sum(0)
