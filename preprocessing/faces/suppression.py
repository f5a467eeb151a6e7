"""Overlap of boxes, and the choice of one among detections of the same face."""

import numpy as np


def iou_matrix(a_N4: np.ndarray, b_M4: np.ndarray) -> np.ndarray:
    """Return intersection over union of every pair of boxes (x0, y0, x1, y1), float [N, M]."""
    a, b = a_N4[:, None, :], b_M4[None, :, :]
    across = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    down = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    common = np.maximum(across, 0) * np.maximum(down, 0)
    area_a = (a[..., 2] - a[..., 0]) * (a[..., 3] - a[..., 1])
    area_b = (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])
    return common / np.maximum(area_a + area_b - common, 1e-9)


def suppress(boxes_N4: np.ndarray, scores_N: np.ndarray, threshold: float) -> list[int]:
    """Return indices to keep, best first: each overlaps no better one by `threshold`."""
    order = [int(i) for i in np.argsort(-scores_N, kind="stable")]
    overlap = iou_matrix(boxes_N4, boxes_N4)
    kept: list[int] = []
    for index in order:
        if all(overlap[index, better] < threshold for better in kept):
            kept.append(index)
    return kept
