"""Smooth functions, random textures and colours from which everything is painted."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating]


def smooth(low: float, high: float, x: ArrayLike) -> NDArray[np.float64]:
    """Smooth step from 0 at `low` to 1 at `high`, which may be the smaller one."""
    t = np.clip((np.asarray(x) - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def linear_rgb(rgb: Sequence[float] | ArrayLike) -> NDArray[np.float32]:
    """Turn display colours of 0 to 255 into linear ones of 0 to 1."""
    return np.asarray((np.asarray(rgb, np.float32) / 255) ** np.float32(2.2), np.float32)


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, int], cells: int
) -> NDArray[np.float32]:
    """Random field [H, W] in about [-1, 1] with `cells` bumps along the longer side."""
    rows, columns = (max(2, cells * n // max(shape)) + 2 for n in shape)
    coarse = rng.uniform(-1, 1, (rows, columns)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC), np.float32)


def uniform_ranks(values: Floats) -> NDArray[np.float32]:
    """Map values to [0, 1] so that all are equally frequent."""
    known = np.sort(values[::8, ::8].ravel())
    return np.interp(values, known, np.linspace(0, 1, len(known))).astype(np.float32)


def periodic_noise(
    rng: np.random.Generator, across: float, along: float, side: int = 512
) -> NDArray[np.float32]:
    """Noise [side, side] in [0, 1] that repeats, blurred over so many texels along each axis."""
    border = side // 4
    wrapped = np.pad(rng.random((side, side)).astype(np.float32), border, mode="wrap")
    blurred = cv2.GaussianBlur(wrapped, (0, 0), sigmaX=across, sigmaY=along)
    return uniform_ranks(np.asarray(blurred, np.float32)[border:-border, border:-border])
