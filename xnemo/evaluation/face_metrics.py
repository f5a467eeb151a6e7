"""Face metrics of generated frames: identity, head pose and expression."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from preprocessing import geometry
from preprocessing.faces.detector import Detector, Face
from preprocessing.faces.pose import head_pose

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class FaceDistances:
    """Means over the frames in which both clips show a face; NaN where there is none."""

    # Cosine similarity of identity embeddings; NaN if the detector has no recognition network.
    identity: float
    # Mean absolute difference of yaw, pitch and roll in degrees (average pose distance).
    pose_degrees: float
    # Mean distance of the five landmarks after a similarity transform of one face onto the other,
    # as a fraction of the distance between the eyes (average expression distance).
    expression: float
    # Fraction of the generated frames that show a face.
    found: float


def face_distances(
    generated_FHWC: Frames,
    driving_FHWC: Frames,
    portrait_HWC: NDArray[np.uint8],
    detector: Detector,
) -> FaceDistances:
    """Compare generated frames with the portrait (identity) and the driving frames (motion).

    Args:
        generated_FHWC: RGB uint8 frames.
        driving_FHWC: Driving frames, equally many.
        portrait_HWC: The portrait.
        detector: Finds faces; identity is measured if it has a recognition network.
    """
    made = [_face(detector, frame) for frame in generated_FHWC]
    wanted = [_face(detector, frame) for frame in driving_FHWC]
    pairs = [(a.landmarks_52, b.landmarks_52) for a, b in zip(made, wanted, strict=True) if a and b]
    pose = expression = float("nan")
    if pairs:
        a_T52, b_T52 = (np.stack(side) for side in zip(*pairs, strict=True))
        pose = float(np.abs(head_pose(a_T52) - head_pose(b_T52)).mean())
        distances = [landmark_distance(a, b) for a, b in zip(a_T52, b_T52, strict=True)]
        expression = float(np.mean(distances))
    return FaceDistances(
        identity=_identity(generated_FHWC, made, portrait_HWC, detector),
        pose_degrees=pose,
        expression=expression,
        found=sum(face is not None for face in made) / max(len(made), 1),
    )


def landmark_distance(a_52: NDArray[np.floating], b_52: NDArray[np.floating]) -> float:
    """Return the mean distance of landmarks after the best similarity transform of `a` onto `b`.

    The unit is the distance between b's eyes.
    """
    a, b = a_52.astype(np.float64), b_52.astype(np.float64)
    affine = geometry.similarity(a, b)
    distance = np.linalg.norm(a @ affine[:, :2].T + affine[:, 2] - b, axis=1)
    eyes = np.linalg.norm(b[1] - b[0])
    return float(distance.mean() / max(eyes, 1e-6))


def _face(detector: Detector, image: NDArray[np.uint8]) -> Face | None:
    faces = detector.detect(image)
    return faces[0] if faces else None


def _identity(
    generated: Frames,
    faces: list[Face | None],
    portrait: NDArray[np.uint8],
    detector: Detector,
) -> float:
    if not detector.recognises:
        return float("nan")
    own = _face(detector, portrait)
    if own is None:
        return float("nan")
    embedding = detector.embed(portrait, own.landmarks_52)
    similarity = [
        float(embedding @ detector.embed(frame, face.landmarks_52))
        for frame, face in zip(generated, faces, strict=True)
        if face is not None
    ]
    return float(np.mean(similarity)) if similarity else float("nan")
