"""Bringing a picture to the size a network reads."""

import cv2
import numpy as np


def shrink(rgb_HWC: np.ndarray, max_side: int) -> tuple[np.ndarray, float, float]:
    """Return the picture with its longer side at most `max_side`, and the factors back (x, y)."""
    height, width = rgb_HWC.shape[:2]
    scale = max_side / max(height, width)
    if scale >= 1:
        return rgb_HWC, 1.0, 1.0
    across, down = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(rgb_HWC, (across, down), interpolation=cv2.INTER_AREA)
    return small, width / across, height / down


def pad_to_multiple(rgb_HWC: np.ndarray, multiple: int) -> np.ndarray:
    """Return the picture with black added right and below until both sides are multiples."""
    height, width = rgb_HWC.shape[:2]
    more = ((0, -height % multiple), (0, -width % multiple), (0, 0))
    return np.pad(rgb_HWC, more) if any(after for _, after in more) else rgb_HWC


def pad_around(rgb_HWC: np.ndarray, fraction: float) -> tuple[np.ndarray, int, int]:
    """Return the picture inside a black border of `fraction` of each side, and the border's sizes.

    A face that fills the frame is rare in what detectors were trained on; with room around, it is
    an ordinary one.
    """
    height, width = rgb_HWC.shape[:2]
    across, down = round(width * fraction), round(height * fraction)
    return np.pad(rgb_HWC, ((down, down), (across, across), (0, 0))), across, down
