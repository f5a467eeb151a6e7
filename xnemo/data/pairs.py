"""Choice of reference and target frames of a clip."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

PairPolicy = Literal["uniform", "pose_distance"]
FrameLayout = Literal["scattered", "window"]


def choose_frames(
    usable_T: NDArray[np.bool_],
    pose_T3: NDArray[np.floating[Any]],
    rng: np.random.Generator,
    *,
    frames: int,
    layout: FrameLayout,
    stride: int = 1,
    policy: PairPolicy = "uniform",
    min_pose_degrees: float = 0.0,
) -> tuple[int, NDArray[np.int_]]:
    """Return the reference frame and the target frames (ascending) of one sample.

    "scattered" targets are independent frames of the whole clip; a "window" is `frames` frames,
    `stride` apart. With "pose_distance" targets differ from the reference by `min_pose_degrees` or
    more in head pose, or as much as the clip allows, so that the denoiser does not learn to copy
    the reference.

    Args:
        usable_T: which frames have a face.
        pose_T3: yaw, pitch and roll in degrees.
        rng: source of the choice.
        frames: number of targets.
        layout: "scattered" or "window".
        stride: frames between neighbours of a window.
        policy: "uniform" or "pose_distance".
        min_pose_degrees: least pose distance.

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
        raise ValueError(f"{len(good)} usable frames, and a pair requires 2")
    reference = int(rng.choice(good))
    pool = good[good != reference]
    if policy == "pose_distance":
        pool = _far(pool, pose_T3, reference, min_pose_degrees)
    targets = rng.choice(pool, size=frames, replace=len(pool) < frames)
    return reference, np.sort(targets)


def _window(
    usable_T: NDArray[np.bool_], rng: np.random.Generator, frames: int, stride: int
) -> NDArray[np.int_]:
    span = (frames - 1) * stride + 1
    if len(usable_T) < span:
        raise ValueError(
            f"{len(usable_T)} frames, and a window of {frames} at stride {stride} requires {span}"
        )
    starts = np.arange(len(usable_T) - span + 1)
    offsets = np.arange(frames) * stride
    whole = usable_T[starts[:, None] + offsets].all(axis=1)
    if not whole.any():
        raise ValueError(f"no window of {frames} frames at stride {stride} has a face in each")
    return int(rng.choice(starts[whole])) + offsets


def _far(
    pool: NDArray[np.int_], pose_T3: NDArray[np.floating[Any]], anchor: int, degrees: float
) -> NDArray[np.int_]:
    """Return the frames of `pool` far in pose from `anchor`, or the farthest tenth if none is."""
    distance = np.linalg.norm(np.nan_to_num(pose_T3[pool] - pose_T3[anchor]), axis=1)
    far: NDArray[np.int_] = pool[distance >= degrees]
    if len(far):
        return far
    keep = max(1, len(pool) // 10)
    farthest: NDArray[np.int_] = pool[np.argsort(distance, kind="stable")[-keep:]]
    return farthest
