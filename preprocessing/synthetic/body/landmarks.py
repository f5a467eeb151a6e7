"""Five landmarks of the mesh, in the order of the usual face detectors."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from preprocessing.synthetic.body.mesh import load_mesh

LANDMARKS = (
    "image left eye", "image right eye", "nose tip", "image left mouth corner",
    "image right mouth corner",
)  # fmt: skip


@cache
def landmark_vertices() -> tuple[NDArray[np.int64], ...]:
    """Fine vertices whose mean is each of `LANDMARKS`. The image's left is the person's right."""
    mesh = load_mesh()
    left, right = (_pupil(eye) for eye in mesh.eyes)
    points = mesh.points
    front = mesh.skin[np.abs(points[mesh.skin, 0]) < 0.004]
    front = front[(points[front, 2] > 0.67) & (points[front, 2] < 0.72)]
    nose = front[np.argsort(points[front, 1])[:3]]
    lips = np.flatnonzero(mesh.on_vertices(mesh.masks["lips"]) > 0.4)
    by_x = lips[np.argsort(points[lips, 0])]
    return right, left, nose, by_x[:3], by_x[-3:]


def _pupil(eye: NDArray[np.int64]) -> NDArray[np.int64]:
    points = load_mesh().points[eye]
    return eye[np.argsort(points[:, 1])[:5]]
