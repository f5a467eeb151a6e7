"""One way to look for faces in an image, for preprocessing, animation and inspection."""

import numpy as np

from preprocessing.faces.detector import Detector, Face
from preprocessing.faces.network import pad_around

# Margins around the image, as shares of its sides, that are tried one after the other where the
# detector finds nothing: it misses faces that fill the image.
_MARGINS = (0.35, 0.8)


def find_in_image(detector: Detector, rgb_HWC: np.ndarray) -> list[Face]:
    """Return the faces of a uint8 RGB image, best first, also those that fill it."""
    faces = detector.detect(rgb_HWC)
    for margin in _MARGINS:
        if faces:
            break
        padded, dx, dy = pad_around(rgb_HWC, margin)
        faces = [face.moved(1, 1, -dx, -dy) for face in detector.detect(padded)]
    return faces


def prominence(face: Face) -> float:
    """Return a face's confidence times its area."""
    width, height = face.box[2] - face.box[0], face.box[3] - face.box[1]
    return float(face.score * max(width, 0) * max(height, 0))
