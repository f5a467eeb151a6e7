"""Overlays (text and logos that stand still over a face) and occlusions (objects that pass it)."""

import cv2
import numpy as np

# Size at which faces are compared.
_SIDE = 96
# Least strength (grey levels per pixel) and coherence of an edge that stands still.
_STRONG = 10.0
_COHERENT = 0.85
# Largest coherence, in the face's own frame, of an edge that is not the face's.
_LOOSE = 0.7
# Factor from the share of overlaid pixels to the score.
_GAIN = 8.0
# Grey levels by which an occluded field differs from its usual brightness.
_UNLIKE = 35.0
# Fields whose centres lie within this (squared, from the middle to the edge is 1) are face.
_ROUND = 1.45
# Radii of the ellipse that certainly is face, as shares of the box.
_INNER = 0.42


def overlay_of(luma_THW: np.ndarray, boxes_T4: np.ndarray, landmarks_T52: np.ndarray) -> float:
    """Return how much of the face is crossed by edges that stand still while it moves, 0 to 1.

    Args:
        luma_THW: brightness of one fixed rectangle around the face in a few frames, uint8 [T, H,
            W].
        boxes_T4: face boxes in its pixels.
        landmarks_T52: landmarks in its pixels.
    """
    if len(luma_THW) < 4:
        return 0.0
    scale = _SIDE / float(np.median((boxes_T4[:, 2:] - boxes_T4[:, :2]).max(axis=1)))
    boxes = boxes_T4.astype(np.float64) * scale
    size = (max(8, round(luma_THW.shape[2] * scale)), max(8, round(luma_THW.shape[1] * scale)))
    images = [cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in luma_THW]
    inside = np.logical_and.reduce([_ellipse(box, size) for box in boxes])
    if inside.sum() < 50:
        return 0.0
    across = np.stack([cv2.Sobel(p, cv2.CV_32F, 1, 0, ksize=3) / 4 for p in images])
    down = np.stack([cv2.Sobel(p, cv2.CV_32F, 0, 1, ksize=3) / 4 for p in images])
    strength = np.sqrt(across**2 + down**2).mean(axis=0)
    fixed = _coherence(across, down)
    # The same with the face aligned: its own edges are coherent there, and overlays are not.
    # Eyes and nose are the most stable points of a face.
    middles = landmarks_T52[:, :3].mean(axis=1) * scale
    shift = np.round(middles - middles.mean(axis=0))
    aligned = _coherence(*(_aligned(maps, shift) for maps in (across, down)))
    edges = (strength > _STRONG) & inside
    overlaid = edges & (fixed > _COHERENT) & (aligned < _LOOSE)
    share = _GAIN * float(overlaid.sum() / inside.sum())
    return min(1.0, share)


def occlusion_of(faces_THW: np.ndarray) -> float:
    """Return the largest share of a face that differs from its usual brightness for a while.

    From 0 to 1. Detects what passes in front of a face, not what covers it in every frame.

    Args:
        faces_THW: aligned faces of the same size, uint8 [T, H, W].
    """
    if len(faces_THW) < 10:
        return 0.0
    faces = faces_THW.astype(np.float32)
    # Brightness of overlapping fields against their medians; the common change is the light.
    fields = np.stack([cv2.blur(face, (12, 12)) for face in faces])[:, 6:-5:6, 6:-5:6]
    change = fields - np.median(fields, axis=0)
    rows, columns = np.mgrid[-1 : 1 : fields.shape[1] * 1j, -1 : 1 : fields.shape[2] * 1j]
    change = change[:, rows**2 + columns**2 <= _ROUND]
    change = change - np.median(change, axis=1, keepdims=True)
    return float(np.percentile((np.abs(change) > _UNLIKE).mean(axis=1), 95))


def _coherence(across_THW: np.ndarray, down_THW: np.ndarray) -> np.ndarray:
    """Return how well each pixel's gradient keeps its direction over time, 0 to 1."""
    strength = np.sqrt(across_THW**2 + down_THW**2).mean(axis=0)
    steady = np.sqrt(across_THW.mean(axis=0) ** 2 + down_THW.mean(axis=0) ** 2)
    return np.asarray(steady / np.maximum(strength, 1e-3))


def _aligned(maps_THW: np.ndarray, shift_T2: np.ndarray) -> np.ndarray:
    """Return the maps shifted so that the face stays in place."""
    return np.stack(
        [
            np.roll(m, (-int(dy), -int(dx)), axis=(0, 1))
            for m, (dx, dy) in zip(maps_THW, shift_T2, strict=True)
        ]
    )


def _ellipse(box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows, columns = np.mgrid[: size[1], : size[0]]
    centre = (box[:2] + box[2:]) / 2
    radius = (box[2:] - box[:2]) * _INNER
    distance = ((columns - centre[0]) / radius[0]) ** 2 + ((rows - centre[1]) / radius[1]) ** 2
    return np.asarray(distance <= 1)
