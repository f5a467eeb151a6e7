"""Head pose from five landmarks: a rigid average face under a scaled orthographic camera.

The error is about 5 degrees in yaw and roll near the frontal pose. Pitch is biased by up to 15
degrees between identities and expressions, because five points cannot separate a long nose from a
lowered head; differences within a clip are more accurate. A prior pulls an ill-determined pitch
towards zero.
"""

import numpy as np

# An average adult face in millimetres: eyes, nose tip, mouth corners.
# x points right, y down, z to the camera.
FACE_POINTS = np.array(
    [[-31.5, -32.0, -15.0], [31.5, -32.0, -15.0], [0.0, 2.0, 16.0], [-25.0, 34.0, -8.0],
     [25.0, 34.0, -8.0]]
)  # fmt: skip
_ITERATIONS = 8
# Variance of the landmark noise over that of (yaw, pitch, roll) among filmed faces.
_PRIOR = np.array([1e-3, 1e-2, 1e-4])


def head_pose(landmarks_T52: np.ndarray) -> np.ndarray:
    """Return (yaw, pitch, roll) in degrees for each frame, float32 [T, 3].

    Yaw is positive towards the right of the image, pitch upwards, roll clockwise as seen. Frontal
    is (0, 0, 0).

    Args:
        landmarks_T52: Eyes left to right as seen, nose tip, mouth corners, in pixels.
    """
    points = np.asarray(landmarks_T52, dtype=np.float64)
    if len(points) == 0:
        return np.zeros((0, 3), dtype=np.float32)
    centred = points - points.mean(axis=1, keepdims=True)
    size = np.sqrt((centred**2).sum(axis=(1, 2), keepdims=True))
    centred = centred / np.maximum(size, 1e-6)
    model = FACE_POINTS - FACE_POINTS.mean(axis=0)
    model = model / np.sqrt((model**2).sum())
    return np.asarray(np.rad2deg(_fit(centred, model)), dtype=np.float32)


def rotation(yaw_pitch_roll_T3: np.ndarray) -> np.ndarray:
    """Return rotation matrices [T, 3, 3] for angles in radians: roll after pitch after yaw."""
    yaw, pitch, roll = np.moveaxis(np.asarray(yaw_pitch_roll_T3, dtype=np.float64), -1, 0)
    zero, one = np.zeros_like(yaw), np.ones_like(yaw)
    cy, sy, cp, sp, cr, sr = (f(a) for a in (yaw, pitch, roll) for f in (np.cos, np.sin))
    about_y = _matrix([[cy, zero, sy], [zero, one, zero], [-sy, zero, cy]])
    # y points down, so looking up is a negative rotation about x.
    about_x = _matrix([[one, zero, zero], [zero, cp, -sp], [zero, sp, cp]])
    about_z = _matrix([[cr, -sr, zero], [sr, cr, zero], [zero, zero, one]])
    matrices: np.ndarray = about_z @ about_x @ about_y
    return matrices


def _matrix(rows: list[list[np.ndarray]]) -> np.ndarray:
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def _fit(points_T52: np.ndarray, model_53: np.ndarray) -> np.ndarray:
    """Fit angles by Gauss-Newton; the scale is solved in closed form."""
    eyes = points_T52[:, 1] - points_T52[:, 0]
    angles = np.zeros((len(points_T52), 3))
    angles[:, 2] = np.arctan2(eyes[:, 1], eyes[:, 0])
    # The nose's offset from the middle of eyes and mouth initialises yaw.
    middle = points_T52[:, [0, 1, 3, 4]].mean(axis=1)
    across = ((points_T52[:, 2] - middle) * eyes).sum(axis=1) / np.maximum((eyes**2).sum(1), 1e-9)
    angles[:, 0] = np.clip(across * 1.5, -1.2, 1.2)
    for _ in range(_ITERATIONS):
        residual = _residual(angles, points_T52, model_53)
        columns = []
        for axis in range(3):
            step = np.zeros(3)
            step[axis] = 1e-4
            columns.append((_residual(angles + step, points_T52, model_53) - residual) / 1e-4)
        jacobian = np.stack(columns, axis=-1)
        normal = np.einsum("tri,trj->tij", jacobian, jacobian) + np.diag(_PRIOR)
        gradient = np.einsum("tri,tr->ti", jacobian, residual) + _PRIOR * angles
        change = np.linalg.solve(normal, gradient[..., None])[..., 0]
        angles = angles - np.clip(change, -0.4, 0.4)
    return np.clip(angles, -np.pi / 2, np.pi / 2)


def _residual(angles: np.ndarray, points_T52: np.ndarray, model_53: np.ndarray) -> np.ndarray:
    seen = np.einsum("tij,kj->tki", rotation(angles)[:, :2], model_53)
    scale = (seen * points_T52).sum(axis=(1, 2)) / np.maximum((seen**2).sum(axis=(1, 2)), 1e-9)
    return np.reshape(scale[:, None, None] * seen - points_T52, (len(points_T52), -1))
