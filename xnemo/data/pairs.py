"""Which frames of a clip become reference and targets."""

from typing import Literal

import numpy as np

PairPolicy = Literal["uniform", "pose_distance"]
FrameLayout = Literal["scattered", "window"]


def choose_frames(
    usable_T: np.ndarray,
    pose_T3: np.ndarray,
    rng: np.random.Generator,
    *,
    frames: int,
    layout: FrameLayout,
    stride: int = 1,
    policy: PairPolicy = "uniform",
    min_pose_degrees: float = 0.0,
) -> tuple[int, np.ndarray]:
    """Return the reference frame and the target frames (ascending) of one sample.

    "scattered" targets are independent frames drawn from the whole clip; a "window" is `frames`
    consecutive ones, `stride` apart. Under "pose_distance" a target lies at least
    `min_pose_degrees` from the reference in head pose, or, in a clip too still for that, as far as
    the clip allows: that keeps the denoiser from learning to copy the reference.

    Args:
        usable_T: which frames have a face inside the picture.
        pose_T3: yaw, pitch and roll in degrees.

    Raises:
        ValueError: the clip has too few usable frames.
    """
    good = np.flatnonzero(usable_T)
    if layout == "window":
        targets = _window(usable_T, rng, frames, stride)
        others = np.setdiff1d(good, targets)
        pool = others if len(others) else good
        if policy == "pose_distance":
            centre = targets[len(targets) // 2]
            pool = _far(pool, pose_T3, centre, min_pose_degrees)
        return int(rng.choice(pool)), targets
    if len(good) < 2:
        raise ValueError(f"{len(good)} usable frames; a pair takes 2")
    reference = int(rng.choice(good))
    pool = good[good != reference]
    if policy == "pose_distance":
        pool = _far(pool, pose_T3, reference, min_pose_degrees)
    targets = rng.choice(pool, size=frames, replace=len(pool) < frames)
    return reference, np.sort(targets)


def _window(usable_T: np.ndarray, rng: np.random.Generator, frames: int, stride: int) -> np.ndarray:
    span = (frames - 1) * stride + 1
    if len(usable_T) < span:
        raise ValueError(
            f"{len(usable_T)} frames; a window of {frames} at stride {stride} takes {span}"
        )
    starts = np.arange(len(usable_T) - span + 1)
    offsets = np.arange(frames) * stride
    whole = usable_T[starts[:, None] + offsets].all(axis=1)
    if not whole.any():
        raise ValueError(f"no window of {frames} frames at stride {stride} has a face in each")
    return int(rng.choice(starts[whole])) + offsets


def _far(pool: np.ndarray, pose_T3: np.ndarray, anchor: int, degrees: float) -> np.ndarray:
    """Keep the frames of `pool` far in pose from `anchor`, or the farthest tenth where none is."""
    distance = np.linalg.norm(np.nan_to_num(pose_T3[pool] - pose_T3[anchor]), axis=1)
    far = pool[distance >= degrees]
    if len(far):
        return far
    keep = max(1, len(pool) // 10)
    return pool[np.argsort(distance, kind="stable")[-keep:]]
