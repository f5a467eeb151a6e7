"""Known motion: smooth seeded curves of head pose and expression over time.

A curve is a function of seconds, so the same motion can be sampled at 25 frames a second, at 30, or
at the uneven times of a variable-rate recording, and stays the same motion.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# The columns of a motion array [T, P]. Angles in degrees: yaw turns the nose to the right of the
# picture, pitch raises it, roll tips the head clockwise. Shifts are in head widths, zoom is the
# natural logarithm of the size. Mouth (open) and blink (closed) run from 0 to 1, smile and brow
# (raised) from -1 to 1. All zero is the photograph itself.
MOTION_NAMES = (
    "yaw",
    "pitch",
    "roll",
    "shift_x",
    "shift_y",
    "zoom",
    "mouth",
    "smile",
    "blink",
    "brow",
)

# The farthest each may go; beyond it the warp would no longer look like a face.
LIMITS = np.array([20.0, 14.0, 10.0, 0.10, 0.08, 0.10, 1.0, 1.0, 1.0, 1.0], np.float32)

_WAVES = 4
# Seconds from rest to full motion.
_START_S = 0.4


def neutral(frames: int) -> NDArray[np.float32]:
    """A motion [frames, P] in which nothing moves."""
    return np.zeros((frames, len(MOTION_NAMES)), np.float32)


def sample_motion(seed: int | Sequence[int], times_s: NDArray[np.floating]) -> NDArray[np.float32]:
    """The motion of one seed at the given times, float32 [T, P] within `LIMITS`.

    It starts at rest, as the photograph is, so that moves can be told from the first frame on.
    Head pose and brows drift as sums of slow waves; the mouth opens in bursts of syllables; blinks
    are short events about every second and a half, some of them held closed.
    """
    seeds = [seed] if isinstance(seed, int) else list(seed)
    t = np.asarray(times_s, np.float64)
    motion = np.zeros((len(t), len(MOTION_NAMES)))
    for column, name in enumerate(MOTION_NAMES):
        # Each its own stream, so that a longer clip only continues a shorter one.
        rng = np.random.default_rng([*seeds, column])
        if name == "mouth":
            motion[:, column] = _speech(rng, t)
        elif name == "blink":
            motion[:, column] = _blinks(rng, t)
        else:
            motion[:, column] = LIMITS[column] * _drift(rng, t)
    return (motion * _ease(t / _START_S)[:, None]).astype(np.float32)


def _drift(rng: np.random.Generator, t: NDArray[np.float64]) -> NDArray[np.float64]:
    """A smooth curve in [-1, 1] that wanders over most of that range in a few seconds."""
    frequency = rng.uniform(0.08, 0.55, _WAVES)
    phase = rng.uniform(0, 2 * np.pi, _WAVES)
    weight = rng.uniform(0.4, 1.0, _WAVES) / np.sqrt(0.3 + frequency)
    waves = weight * np.sin(2 * np.pi * frequency * t[:, None] + phase)
    # The tangent keeps the sum within its range without flattening it at a hard limit.
    return np.tanh(2.2 * waves.sum(1) / weight.sum())


def _speech(rng: np.random.Generator, t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mouth opening in [0, 1]: syllables, two or three a second, in phrases with pauses."""
    syllable = rng.uniform(1.6, 2.8)
    wobble = 0.35 * np.sin(2 * np.pi * rng.uniform(0.3, 0.6) * t + rng.uniform(0, 2 * np.pi))
    phrase = 0.5 + 0.5 * _drift(rng, t)
    open_ = 0.5 - 0.5 * np.cos(2 * np.pi * syllable * t + 2 * wobble + rng.uniform(0, 2 * np.pi))
    return np.clip(1.25 * phrase * open_, 0.0, 1.0)


def _blinks(rng: np.random.Generator, t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lid closure in [0, 1]: events of 0.1 s down, a hold, and 0.15 s up."""
    closed = np.zeros_like(t)
    start = rng.uniform(0.1, 1.2)
    end = float(t.max(initial=0.0))
    while start < end:
        hold = rng.uniform(0.05, 0.5)
        down = _ease((t - start) / 0.10)
        up = _ease((t - start - 0.10 - hold) / 0.15)
        closed = np.maximum(closed, down - up)
        start += hold + rng.uniform(0.8, 2.2)
    return closed


def _ease(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3 - 2 * x)
