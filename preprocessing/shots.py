"""Detects cuts in a stream of frames from a few hundred luma values of each."""

from collections import deque

import numpy as np

from preprocessing.config import ShotConfig

#: Longer side in pixels of the images that `CutFinder` reads.
LUMA_SIDE = 64
_BINS = 32
_MEMORY = 12


class CutFinder:
    """Decides for each frame whether a new shot begins with it.

    A cut changes the position of brightness (mean difference of pixels) and its amount (histogram),
    and does so suddenly compared with the frames before. A turning head changes the first a little
    and the second hardly. A light switched on counts as a cut, so that lighting is constant within
    a clip.
    """

    def __init__(self, config: ShotConfig) -> None:
        self._config = config
        self._previous: np.ndarray | None = None
        self._recent: deque[float] = deque(maxlen=_MEMORY)

    def is_cut(self, luma_HW: np.ndarray) -> bool:
        """Add the next frame's luma (uint8) and return whether a shot begins with it."""
        previous, self._previous = self._previous, luma_HW
        if previous is None:
            return False
        if previous.shape != luma_HW.shape:
            self._recent.clear()
            return True
        difference = float(np.abs(luma_HW.astype(np.int16) - previous).mean()) / 255
        shift = _histogram_distance(luma_HW, previous)
        usual = float(np.median(self._recent)) if self._recent else 0.0
        sudden = difference > self._config.prominence * usual + 0.01
        strong = difference > self._config.difference and shift > self._config.histogram
        # Two shots of the same room have the same histogram, but no pixel stays where it was.
        moved = difference > 2.5 * self._config.difference
        if sudden and (strong or moved):
            self._recent.clear()
            return True
        self._recent.append(difference)
        return False


def _histogram_distance(a_HW: np.ndarray, b_HW: np.ndarray) -> float:
    """Return the distance of normalised histograms, 0 to 1, nearly blind to small shifts."""
    a, b = (
        np.bincount(x.ravel() // (256 // _BINS), minlength=_BINS) / x.size for x in (a_HW, b_HW)
    )
    # The distance of cumulative histograms measures how far brightness moved.
    earth = float(np.abs(np.cumsum(a) - np.cumsum(b)).sum()) / 4
    return min(1.0, max(float(np.abs(a - b).sum()) / 2 * 0.7, min(earth, 1.0)))
