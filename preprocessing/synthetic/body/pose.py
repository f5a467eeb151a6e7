"""Poses a person's mesh by one row of motion."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from preprocessing.synthetic.body.asset import Asset
from preprocessing.synthetic.motion.columns import GAZE_ACTIONS, MOTION_COLUMNS, Motion

Matrix = NDArray[np.float64]
# Share of the head's rotation that torso, three neck bones and the head bone take, in this order.
# All turn about the same axis, so together they turn the head by exactly the columns' rotation.
_SHARES = (0.12, 0.08, 0.14, 0.20, 0.46)
_TORSO_JOINT = (0.0, 0.02, 0.34)


@dataclass(frozen=True)
class Pose:
    """Coarse vertices [V, 3] in metres and the transforms [4, 4] of torso and head."""

    points: NDArray[np.float32]
    torso: Matrix
    head: Matrix
    values: dict[str, float]


def rotation(vector: Sequence[float] | NDArray[np.floating]) -> Matrix:
    """Rotation matrix [3, 3] about a vector by its length in radians."""
    return np.asarray(cv2.Rodrigues(np.asarray(vector, np.float64))[0])


def head_rotation(yaw: float, pitch: float, roll: float) -> Matrix:
    """Rotation of the head [3, 3] from degrees, in the model's axes (z up, face to -y)."""
    a, p, r = np.radians([yaw, pitch, roll])
    return rotation((0, 0, a)) @ rotation((-p, 0, 0)) @ rotation((0, r, 0))


def eye_centre(points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Centre [3] of an eyeball, a sphere with a bulge in front: the back decides."""
    low, high = points.min(0), points.max(0)
    centre = np.asarray((low + high) / 2, np.float64)
    centre[1] = high[1] - (high[0] - low[0]) / 2
    return centre


def pose(asset: Asset, rest: NDArray[np.float32], joints: NDArray[np.float32], row: Motion) -> Pose:
    """Apply actions, gaze and head rotation.

    Args:
        asset: the model.
        rest: coarse vertices at rest [V, 3].
        joints: heads of the neck bones and the head bone [4, 3].
        row: motion numbers [P].
    """
    values = dict(zip(MOTION_COLUMNS, row.tolist(), strict=True))
    points = rest + _action_offsets(asset, values)
    gaze = rotation((0, 0, np.radians(values["gaze_yaw"])))
    gaze = gaze @ rotation((-np.radians(values["gaze_pitch"]), 0, 0))
    for part in ("left_eye", "right_eye"):
        # Eyeballs turn, they are not morphed.
        eye = np.unique(asset.faces[part])
        centre = eye_centre(rest[eye])
        points[eye] = (rest[eye] - centre) @ gaze.T + centre
    whole = head_rotation(values["yaw"], values["pitch"], values["roll"])
    turn = cv2.Rodrigues(whole)[0].ravel()
    transform, transforms = np.eye(4), []
    for joint, share in zip([_TORSO_JOINT, *joints], _SHARES, strict=True):
        step = np.eye(4)
        step[:3, :3] = rotation(turn * share)
        step[:3, 3] = joint - step[:3, :3] @ joint
        transform = transform @ step
        transforms.append(transform)
    posed = np.zeros_like(points)
    for bone, matrix in enumerate(transforms):
        moved = points @ matrix[:3, :3].T.astype(np.float32) + matrix[:3, 3].astype(np.float32)
        posed += asset.weights[:, bone : bone + 1] * moved
    return Pose(posed, transforms[0], transforms[-1], values)


def _action_offsets(asset: Asset, values: dict[str, float]) -> NDArray[np.float32]:
    """Change of the coarse vertices [V, 3]; the lids follow the gaze."""
    active = {name: values[name] for name in asset.action_names if values.get(name)}
    yaw, pitch = values["gaze_yaw"], values["gaze_pitch"]
    for side, outward in (("Left", yaw), ("Right", -yaw)):
        looks = {
            "eyeLookDown": -pitch,
            "eyeLookUp": pitch,
            "eyeLookOut": outward,
            "eyeLookIn": -outward,
        }
        for name, degrees in looks.items():
            if degrees > 0:
                active[name + side] = degrees / GAZE_ACTIONS[name]
    # Closing lips over a closed jaw would fold them.
    active["mouthClose"] = min(active.get("mouthClose", 0), max(values["jawOpen"], 0))
    chosen = [asset.action_names.index(name) for name in active]
    weights = np.array(list(active.values()), np.float32)
    return np.asarray(np.tensordot(weights, asset.actions[chosen], 1), np.float32)
