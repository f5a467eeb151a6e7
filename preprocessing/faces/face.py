"""What every detector returns, and the protocol all of them answer to."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, eq=False)
class Face:
    """One face found in one picture, in that picture's pixels."""

    # Box (x0, y0, x1, y1), float32 [4]; may reach beyond the picture.
    box: np.ndarray
    # Confidence between 0 and 1.
    score: float
    # Eyes as they appear left to right, nose tip, mouth corners left to right; float32 [5, 2].
    landmarks_52: np.ndarray

    def moved(self, scale_x: float, scale_y: float, dx: float = 0.0, dy: float = 0.0) -> "Face":
        """Return the face in pixels x·scale_x + dx, y·scale_y + dy."""
        scale = np.array([scale_x, scale_y], dtype=np.float32)
        shift = np.array([dx, dy], dtype=np.float32)
        return Face(
            box=(self.box.reshape(2, 2) * scale + shift).reshape(4).astype(np.float32),
            score=self.score,
            landmarks_52=(self.landmarks_52 * scale + shift).astype(np.float32),
        )


class Detector(Protocol):
    """Finds faces; may also tell whose they are."""

    @property
    def name(self) -> str:
        """Short name, as the command line spells it."""

    @property
    def model_sha256(self) -> Mapping[str, str]:
        """The sha256 of each weights file by its role (`detection`, `recognition`)."""

    @property
    def recognises(self) -> bool:
        """Whether `embed` gives descriptors of identity."""

    def detect(self, rgb_HWC: np.ndarray) -> list[Face]:
        """Return the faces of a uint8 RGB picture, best first. Larger pictures are shrunk first."""

    def embed(self, rgb_HWC: np.ndarray, landmarks_52: np.ndarray) -> np.ndarray:
        """Return a unit-length float32 descriptor of identity; empty without recogniser."""
