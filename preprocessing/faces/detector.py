"""Face detections, the detector protocol, and the choice of a detector by name."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from preprocessing.errors import UserError

DETECTORS = ("centerface", "insightface")


@dataclass(frozen=True, eq=False)
class Face:
    """One face found in one image, in that image's pixels."""

    # Box (x0, y0, x1, y1), float32 [4]; may reach beyond the image.
    box: np.ndarray
    # Confidence between 0 and 1.
    score: float
    # Eyes left to right as seen, nose tip, mouth corners left to right; float32 [5, 2].
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
    """Detects faces; may also describe their identity."""

    @property
    def name(self) -> str:
        """Short name, as on the command line."""

    @property
    def model_sha256(self) -> Mapping[str, str]:
        """The sha256 of each weights file by its role (`detection`, `recognition`)."""

    @property
    def recognises(self) -> bool:
        """Whether `embed` returns identity descriptors."""

    def detect(self, rgb_HWC: np.ndarray) -> list[Face]:
        """Return the faces of a uint8 RGB image, best first. Larger images are shrunk first."""

    def embed(self, rgb_HWC: np.ndarray, landmarks_52: np.ndarray) -> np.ndarray:
        """Return a unit-length float32 identity descriptor; empty without a recogniser."""


def make_detector(
    name: str = "centerface",
    model_dir: str | None = None,
    size: int = 640,
    threshold: float = 0.5,
) -> Detector:
    """Open a detector.

    Args:
        name: `centerface` or `insightface`.
        model_dir: For `insightface`, a folder of ONNX files or the name of a pack.
        size: Longer side in pixels of the image that the network reads.
        threshold: Least confidence of a face.

    Raises:
        UserError: There is no such detector, or its weights are missing.
    """
    if name == "centerface":
        from preprocessing.faces.centerface import CenterFace

        if model_dir:
            raise UserError(
                "a face model folder is set, but the detector is centerface, which reads none",
                "add --detector insightface, or leave out --face-model-dir",
            )
        return CenterFace(size=size, threshold=threshold)
    if name == "insightface":
        from preprocessing.faces.insightface_pack import InsightFacePack

        return InsightFacePack(model_dir, size=size, threshold=threshold)
    near = difflib.get_close_matches(name, DETECTORS, n=1)
    raise UserError(
        f"there is no detector {name!r}",
        f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(DETECTORS)}",
    )
