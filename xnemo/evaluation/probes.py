"""Linear probes of the motion latent: motion should be readable from it, identity should not."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xnemo.animation.motion import encode_crops
from xnemo.evaluation.held_out import HeldOutClip, driving_crops
from xnemo.model.motion.encoder import MotionEncoder

Array = NDArray[np.floating]

# Ridge penalties that cross-validation chooses from, relative to the features' variance.
_PENALTIES = np.logspace(-4, 3, 15)


@dataclass(frozen=True)
class IdentityProbe:
    """Accuracy of reading the identity."""

    # Fraction of frames classified correctly, averaged over identities.
    accuracy: float
    # Accuracy of guessing.
    chance: float


def motion_latents(
    encoder: MotionEncoder, clips: Sequence[HeldOutClip], chunk: int = 32
) -> NDArray[np.float32]:
    """Return the latent of every frame (N, D), clip after clip, before position and scale.

    This is what the encoder reads from the image of the face; position and scale are inputs.

    Args:
        encoder: The motion encoder, in evaluation mode.
        clips: Clips to encode.
        chunk: Frames encoded at once.
    """
    size = encoder.config["image_size"]
    return np.concatenate([face_latents(encoder, driving_crops(c, size), chunk) for c in clips])


def face_latents(
    encoder: MotionEncoder, crops_NHWC: NDArray[np.uint8], chunk: int = 64
) -> NDArray[np.float32]:
    """Return the latents (N, D) of crops of the encoder's size, before position and scale."""
    parts = range(0, len(crops_NHWC), chunk)
    return np.concatenate(
        [encode_crops(encoder, crops_NHWC[i : i + chunk]).float().numpy() for i in parts]
    )


def motion_r2(latents_ND: Array, parameters_NP: Array, groups_N: ArrayLike) -> NDArray[np.float64]:
    """Return R² per parameter (P,) of a ridge regression, on groups it was not fitted to.

    Every group is predicted by a regression fitted to all others, with a penalty chosen among those
    others in the same way. R² is relative to each held-out group's own mean, so a constant offset
    between identities has no effect; 1 is perfect, 0 no better than that mean.

    Args:
        latents_ND: One row per frame.
        parameters_NP: Known motion, such as yaw, mouth and eyes.
        groups_N: Groups that must not be split between fit and test: the identity, or the clip.

    Raises:
        ValueError: There are fewer than three groups.
    """
    x, y = np.asarray(latents_ND, np.float64), np.asarray(parameters_NP, np.float64)
    groups = _folds(groups_N)
    if len(groups) < 3:
        raise ValueError(f"{len(groups)} groups, but cross-validation needs three")
    residual, total = np.zeros(y.shape[1]), np.zeros(y.shape[1])
    for held_out in groups:
        rest = [group for group in groups if group is not held_out]
        penalty = _choose(x, y, rest)
        train = np.concatenate(rest)
        predicted = _ridge(x[train], y[train], x[held_out], penalty)
        residual += _sum_of_squares(y[held_out] - predicted)
        total += _sum_of_squares(y[held_out])
    return 1 - residual / np.maximum(total, 1e-12)


def fit_linear_reader(
    latents_ND: Array, parameters_NP: Array, groups_N: ArrayLike
) -> Callable[[Array], Array]:
    """Fit a ridge regression and return it as a function from latents to parameters.

    The penalty of each parameter is the one that predicts each group best from the others.
    """
    x, y = np.asarray(latents_ND, np.float64), np.asarray(parameters_NP, np.float64)
    penalty = _choose(x, y, _folds(groups_N))
    return lambda latents: _ridge(x, y, np.asarray(latents, np.float64), penalty)


def identity_accuracy(
    latents_ND: Array, identities_N: ArrayLike, clips_N: ArrayLike
) -> IdentityProbe:
    """Return the accuracy of a linear classifier of identity, on clips it was not fitted to.

    Raises:
        ValueError: Fewer than two identities have two clips or more.
    """
    x = np.asarray(latents_ND, np.float64)
    identities, clips = np.asarray(identities_N), np.asarray(clips_N)
    clips_of = {p: np.unique(clips[identities == p]) for p in np.unique(identities)}
    classes = [p for p, own in clips_of.items() if len(own) >= 2]
    if len(classes) < 2:
        raise ValueError("two identities with two clips each are needed")
    inside = np.isin(identities, classes)
    x, identities, clips = x[inside], identities[inside], clips[inside]
    targets = (identities[:, None] == np.array(classes)[None]).astype(np.float64)
    # The n-th clip of every identity is held out together, so that all stay represented.
    fold = np.zeros(len(x), int)
    for identity in classes:
        for number, clip in enumerate(clips_of[identity]):
            fold[(identities == identity) & (clips == clip)] = number
    counts = {identity: [0, 0] for identity in classes}
    for number in range(min(len(clips_of[p]) for p in classes)):
        test = fold == number
        rest = _folds(fold[~test])
        fitted_x, fitted_y = x[~test], targets[~test]
        # One for all, or classes would not be comparable.
        penalty = float(np.median(_choose(fitted_x, fitted_y, rest))) if len(rest) > 1 else 1.0
        scores = _ridge(fitted_x, fitted_y, x[test], penalty)
        for identity, guess in zip(identities[test], scores.argmax(1), strict=True):
            counts[identity][0] += classes[guess] == identity
            counts[identity][1] += 1
    accuracy = float(np.mean([hits / max(tries, 1) for hits, tries in counts.values()]))
    return IdentityProbe(accuracy, 1 / len(classes))


def _folds(groups_N: ArrayLike) -> list[NDArray[np.int64]]:
    groups = np.asarray(groups_N)
    return [np.flatnonzero(groups == name) for name in np.unique(groups)]


def _choose(x: Array, y: Array, folds: list[NDArray[np.int64]]) -> Array:
    """Return for each column of y the penalty that predicts each fold best from the others."""
    errors = np.zeros((len(_PENALTIES), y.shape[1]))
    for held_out in folds:
        train = np.concatenate([fold for fold in folds if fold is not held_out])
        path = _ridge_path(x[train], y[train], x[held_out], list(_PENALTIES))
        for number, predicted in enumerate(path):
            errors[number] += _sum_of_squares(y[held_out] - predicted)
    chosen: Array = _PENALTIES[errors.argmin(0)]
    return chosen


def _ridge(x: Array, y: Array, at: Array, penalty: float | Array) -> Array:
    return next(_ridge_path(x, y, at, [penalty]))


def _ridge_path(
    x: Array, y: Array, at: Array, penalties: Sequence[float | Array]
) -> Iterator[Array]:
    """Fit and predict for several penalties, each one number or one for each column of y."""
    mean_x, mean_y = x.mean(0), y.mean(0)
    scale = np.maximum(x.std(0), 1e-8)
    u, s, vt = np.linalg.svd((x - mean_x) / scale, full_matrices=False)
    inside, outside = u.T @ (y - mean_y), ((at - mean_x) / scale) @ vt.T
    for penalty in penalties:
        shrunk = s[:, None] / (s[:, None] ** 2 + np.asarray(penalty) * len(x))
        yield outside @ (shrunk * inside) + mean_y


def _sum_of_squares(values_NP: Array) -> Array:
    """Return the sum of squares about the mean, per column."""
    total: Array = ((values_NP - values_NP.mean(0)) ** 2).sum(0)
    return total
