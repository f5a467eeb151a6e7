"""Random motion: head, gaze, expressions, speech and blinks as a pure function of seed and time."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from preprocessing.synthetic.appearance.fields import smooth
from preprocessing.synthetic.motion.columns import ACTIONS, COLUMN, MOTION_COLUMNS, Motion, sided
from preprocessing.synthetic.motion.expressions import EXPRESSIONS, VISEMES

_Times = NDArray[np.float64]
# Standard deviation and limit of each slow movement, and its rate in Hz.
_DRIFTS = {
    "yaw": (13.0, 32.0, 0.28),
    "pitch": (8.0, 21.0, 0.28),
    "roll": (6.0, 15.0, 0.28),
    "tx": (0.022, 0.06, 0.18),
    "ty": (0.018, 0.05, 0.18),
    "zoom": (0.045, 0.12, 0.18),
}
_GAZE_LOW, _GAZE_HIGH = (-26.0, -16.0), (26.0, 14.0)
# Together, mouth, jaw and cheeks act at most this much, or the mesh folds.
_MOUTH_LIMIT = 2.6


def sample_motion(seed: int, times_s: Sequence[float] | NDArray[np.floating]) -> Motion:
    """Return the motion numbers [T, P] (`MOTION_COLUMNS`) of a seed at times in seconds.

    Every time may be asked for alone: neither the other times nor the length changes a row.
    """
    times = np.asarray(times_s, np.float64)
    motion = np.zeros((len(times), len(MOTION_COLUMNS)))
    # One generator for each stream of events, so that the length of one does not alter another.
    head, gaze, expression, single, speech, blink = np.random.default_rng([seed, 991]).spawn(6)
    end = max(float(times.max(initial=0.0)) + 2, 8.0)
    _drift(motion, times, head)
    _look(motion, times, gaze, end)
    _express(motion, times, expression, end)
    _single_actions(motion, times, single, end)
    _speak(motion, times, speech, end)
    _blink(motion, times, blink, end)
    _limit(motion)
    return motion.astype(np.float32)


def _pulse(times: _Times, start: float, rise: float, hold: float, fall: float) -> _Times:
    since = times - start
    return smooth(0, rise, since) * (1 - smooth(0, fall, since - rise - hold))


def _add(motion: _Times, actions: Mapping[str, float], weight: _Times) -> None:
    for name, value in actions.items():
        motion[:, COLUMN[name]] += value * weight


def _drift(motion: _Times, times: _Times, rng: np.random.Generator) -> None:
    """Slow movement of head and frame: sums of cosines, limited smoothly."""
    lively = rng.uniform(0.5, 1.15)
    for name, (deviation, limit, rate) in _DRIFTS.items():
        value = np.zeros(len(times))
        for octave in range(2):
            frequency = rng.uniform(0.2, 1, 24) * rate * 2**octave
            phase = rng.uniform(0, 2 * np.pi, 24)
            waves = np.cos(2 * np.pi * frequency * times[:, None] + phase)
            value += waves.sum(1) * np.sqrt(2 / 24) * 0.5**octave
        if name in ("yaw", "pitch", "roll"):
            value = value * lively + rng.normal(0, 0.35)
        motion[:, COLUMN[name]] = limit * np.tanh(value * deviation / limit)


def _look(motion: _Times, times: _Times, rng: np.random.Generator, end: float) -> None:
    """Fixations joined by quick saccades."""
    start, here = 0.0, rng.normal(0, (6, 4))
    gaze = np.zeros((len(times), 2))
    while start < end:
        there = np.clip(rng.normal(0, (11, 7)), _GAZE_LOW, _GAZE_HIGH)
        moved = smooth(0, 0.06, times - start)[:, None]
        gaze = np.where(times[:, None] >= start, here * (1 - moved) + there * moved, gaze)
        here, start = there, start + rng.gamma(2.2, 0.45)
    motion[:, [COLUMN["gaze_yaw"], COLUMN["gaze_pitch"]]] = gaze


def _express(motion: _Times, times: _Times, rng: np.random.Generator, end: float) -> None:
    start, names = rng.uniform(-1, 1), list(EXPRESSIONS)
    while start < end:
        hold = rng.gamma(2, 0.35)
        name, strength = names[rng.integers(len(names))], rng.uniform(0.45, 1.05)
        shape = _pulse(times, start, rng.uniform(0.15, 0.45), hold, rng.uniform(0.2, 0.6))
        _add(motion, EXPRESSIONS[name], strength * shape)
        start += hold + rng.gamma(2, 0.4)


def _single_actions(motion: _Times, times: _Times, rng: np.random.Generator, end: float) -> None:
    """Single actions, so that none occurs only together with others."""
    # mouthClose means something only against an open jaw.
    names = [name for name in ACTIONS if name != "mouthClose"]
    start = rng.uniform(-0.5, 0.5)
    while start < end:
        name = names[rng.integers(len(names))]
        both = rng.random() < 0.5
        group = {name, name.replace("Left", "Right"), name.replace("Right", "Left")}
        strength = rng.uniform(0.3, 1)
        rise, hold, fall = rng.uniform(0.1, 0.3), rng.gamma(2, 0.2), rng.uniform(0.12, 0.4)
        shape = _pulse(times, start, rise, hold, fall)
        if name == "jawOpen" and both:
            # The jaw drops with the lips held together.
            _add(motion, {"mouthClose": 1.0}, 0.8 * strength * shape)
        _add(motion, dict.fromkeys(sorted(group) if both else [name], 1.0), strength * shape)
        start += rng.gamma(2, 0.22)


def _speak(motion: _Times, times: _Times, rng: np.random.Generator, end: float) -> None:
    start = rng.uniform(0, 1.5)
    while start < end:
        stop, loudness = start + rng.gamma(2, 0.8), rng.uniform(0.5, 1.15)
        while start < stop:
            length = rng.uniform(0.09, 0.2)
            shape = _pulse(times, start - length / 2, length, 0.15 * length, length)
            viseme = VISEMES[rng.integers(len(VISEMES))]
            _add(motion, viseme, loudness * rng.uniform(0.5, 1.1) * shape)
            start += length
        start += rng.gamma(2, 0.4)


def _blink(motion: _Times, times: _Times, rng: np.random.Generator, end: float) -> None:
    start = rng.uniform(0, 2.5)
    while start < end:
        _add(motion, dict.fromkeys(sided("eyeBlink"), 1.0), _pulse(times, start, 0.07, 0.04, 0.12))
        start += rng.gamma(2.5, 1.1) + 0.2


def _limit(motion: _Times) -> None:
    """Keep actions in [0, 1] and their combinations to what a face can do."""
    actions = [COLUMN[name] for name in ACTIONS]
    motion[:, actions] = np.clip(motion[:, actions], 0, 1)
    mouth = [COLUMN[n] for n in ACTIONS if n.startswith(("mouth", "jaw", "cheekPuff"))]
    total = np.maximum(motion[:, mouth].sum(1, keepdims=True), 1e-6)
    motion[:, mouth] *= np.minimum(1, _MOUTH_LIMIT / total)
    close, jaw = COLUMN["mouthClose"], COLUMN["jawOpen"]
    motion[:, close] = np.minimum(motion[:, close], motion[:, jaw])
    for side in ("Left", "Right"):
        motion[:, COLUMN[f"eyeWide{side}"]] *= 1 - motion[:, COLUMN[f"eyeBlink{side}"]]
