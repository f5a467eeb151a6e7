"""Boxes and crops, shared by preprocessing, the training loader and animation.

A box is `(x0, y0, x1, y1)` in pixels, x to the right and y down, x1 and y1 exclusive. The crop
rules are those of X-NeMo's released inference, so that training and animation use the same pixels.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

Box = NDArray[np.float64]
FrameHW = Sequence[int]  # (height, width, ...), such as an image's shape

REFERENCE_SCALE = 2.0
TIGHT_SCALE = 1.1


def box_centre(box: ArrayLike) -> NDArray[np.float64]:
    """Return the (x, y) centre of a box, or of each of (T, 4) boxes."""
    b = np.asarray(box, dtype=np.float64)
    return (b[..., :2] + b[..., 2:]) * 0.5


def box_side(box: ArrayLike) -> NDArray[np.float64]:
    """Return the larger side of a box, or of each of (T, 4) boxes."""
    b = np.asarray(box, dtype=np.float64)
    side: NDArray[np.float64] = (b[..., 2:] - b[..., :2]).max(axis=-1)
    return side


def square_box(box: ArrayLike, scale: float = 1.0) -> Box:
    """Return the square of side `scale` × the larger side, with the same centre."""
    half = box_side(box) * scale / 2
    centre = box_centre(box)
    return np.concatenate([centre - half, centre + half])


def union_box(boxes_T4: ArrayLike) -> Box:
    """Return the smallest box that contains all boxes."""
    b = np.asarray(boxes_T4, dtype=np.float64).reshape(-1, 4)
    return np.concatenate([b[:, :2].min(axis=0), b[:, 2:].max(axis=0)])


def overshoot(box: ArrayLike, frame_hw: FrameHW) -> NDArray[np.float64]:
    """Return how far (left, top, right, bottom) extend beyond the frame; ≤ 0 is inside."""
    x0, y0, x1, y1 = np.asarray(box, dtype=np.float64)
    return np.array([-x0, -y0, x1 - frame_hw[1], y1 - frame_hw[0]])


def reference_crop_box(box: ArrayLike, frame_hw: FrameHW, scale: float = REFERENCE_SCALE) -> Box:
    """Return the wide crop around a face, which frames the generated image.

    The sides grow about the centre to `scale` × the larger one and are truncated to whole pixels. A
    crop that leaves the frame on one axis and would fit is shifted inside. One that leaves it on
    both axes, or cannot fit, keeps its position, and cropping pads.

    Args:
        box: Face box.
        frame_hw: Height and width of the frame.
        scale: Side of the crop as a multiple of the face's larger side.
    """
    x0, y0, x1, y1 = (float(v) for v in np.asarray(box, dtype=np.float64))
    # A detector may return a box of zero width or height.
    width, height = max(x1 - x0, 1e-6), max(y1 - y0, 1e-6)
    grow = (scale - 1) / 2
    # Relative growth per side; the shorter axis grows more, so that the result is square.
    grow_x = max(grow, (scale * height - width) / (2 * width))
    grow_y = max(grow, (scale * width - height) / (2 * height))
    crop = np.array(
        [
            int(x0 - grow_x * width),
            int(y0 - grow_y * height),
            int(x1 + grow_x * width),
            int(y1 + grow_y * height),
        ],
        dtype=np.float64,
    )
    left, top, right, bottom = overshoot(crop, frame_hw)
    leaves_x, leaves_y = max(left, right) > 0, max(top, bottom) > 0
    if leaves_x and not leaves_y and left + right <= 0:
        crop[[0, 2]] += left if left > 0 else -right
    elif leaves_y and not leaves_x and top + bottom <= 0:
        crop[[1, 3]] += top if top > 0 else -bottom
    return crop


def _touches_border(box: Box, frame_hw: FrameHW) -> bool:
    """Whether a box needs a pixel outside the frame; the last row and column count as outside."""
    return bool(box[0] < 0 or box[1] < 0 or box[2] > frame_hw[1] - 1 or box[3] > frame_hw[0] - 1)


def tight_box(box: ArrayLike, frame_hw: FrameHW, scale: float = TIGHT_SCALE) -> Box:
    """Return the crop given to the motion encoder: a square of `scale` × the larger side.

    Where that leaves the frame, the box itself is returned, which need not be square.
    """
    square = square_box(box, scale)
    if _touches_border(square, frame_hw):
        return np.asarray(box, dtype=np.float64).copy()
    return square


def even_size(box: ArrayLike) -> tuple[int, int]:
    """Return (width, height) of a box, rounded to whole pixels, then down to even ones."""
    x0, y0, x1, y1 = (float(v) for v in np.asarray(box, dtype=np.float64))
    return round(x1 - x0) // 2 * 2, round(y1 - y0) // 2 * 2


def centred_box(centre_xy: ArrayLike, size_wh: Sequence[float], frame_hw: FrameHW) -> Box:
    """Return the box of a size around a centre, shifted to stay inside the frame.

    A box larger than the frame extends beyond it on both sides.
    """
    centre = np.asarray(centre_xy, dtype=np.float64)
    half = np.asarray(size_wh, dtype=np.float64) / 2
    box = np.concatenate([centre - half, centre + half])
    if _touches_border(box, frame_hw):
        limit = np.array([frame_hw[1] - 1, frame_hw[0] - 1], dtype=np.float64)
        shift = np.maximum(-box[:2], 0) + np.minimum(limit - box[2:], 0)
        box = box + np.concatenate([shift, shift])
        # Rounding may leave a box that touches both borders slightly below zero.
        box[:2] = np.where(2 * half <= limit, np.maximum(box[:2], 0), box[:2])
    return box


def smooth_centres(centres_T2: ArrayLike, sigma: float = 5.0) -> NDArray[np.float32]:
    """Return centres smoothed over time by a Gaussian of `sigma` frames, ends mirrored."""
    centres = np.asarray(centres_T2, dtype=np.float32)
    # Imported here because it is slow and few callers smooth.
    from scipy.ndimage import gaussian_filter1d

    return np.asarray(gaussian_filter1d(centres, sigma=sigma, axis=0), dtype=np.float32)


def driving_crop_boxes(
    boxes_T4: ArrayLike, frame_hw: FrameHW, sigma: float = 5.0, sized_by: int = 0
) -> Box:
    """Return the (T, 4) crops of a driving clip: one size, smoothed centres, inside the frame.

    The size is that of the tight crop of frame `sized_by`, so that changes of the face's scale
    remain visible; smoothing keeps detector jitter out of the motion latent. Boxes of frames
    without a face (NaN) are interpolated in time.
    """
    boxes = np.asarray(boxes_T4, dtype=np.float64).reshape(-1, 4)
    known = np.flatnonzero(np.isfinite(boxes).all(axis=1))
    if len(known) < len(boxes):
        times = np.arange(len(boxes))
        boxes = np.stack([np.interp(times, known, column[known]) for column in boxes.T], axis=1)
    size = even_size(tight_box(boxes[sized_by], frame_hw))
    centres = smooth_centres(box_centre(boxes), sigma)
    return np.stack([centred_box(centre, size, frame_hw) for centre in centres])


def box_vector(box: ArrayLike, reference_box: ArrayLike) -> NDArray[np.float64]:
    """Return (Δy / s_ref, Δx / s_ref, s / s_ref) of a face relative to the reference; y is first.

    `s` is the larger side. Takes one box or (T, 4) boxes; (0, 0, 1) equals the reference.
    """
    reference_side = box_side(reference_box)
    delta_xy = (box_centre(box) - box_centre(reference_box)) / reference_side
    ratio = box_side(box) / reference_side
    return np.concatenate([delta_xy[..., ::-1], ratio[..., None]], axis=-1)


def left_square(frame_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the left part, at most as wide as high, as the release crops driving videos."""
    return frame_HWC[:, : frame_HWC.shape[0]]


def crop(
    image_HWC: NDArray[np.uint8], box: ArrayLike, pad: Literal["zero", "edge"] = "zero"
) -> NDArray[np.uint8]:
    """Crop a box from an image; its coordinates are truncated to whole pixels.

    Pixels outside the image are black, or repeat the border with pad="edge". The result has at
    least one pixel.
    """
    x0, y0, x1, y1 = (int(v) for v in np.asarray(box, dtype=np.float64))
    x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
    height, width = image_HWC.shape[:2]
    if x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height:
        return image_HWC[y0:y1, x0:x1]
    if pad == "edge":
        rows = np.clip(np.arange(y0, y1), 0, height - 1)
        columns = np.clip(np.arange(x0, x1), 0, width - 1)
        return image_HWC[rows[:, None], columns[None, :]]
    out = np.zeros((y1 - y0, x1 - x0, *image_HWC.shape[2:]), dtype=image_HWC.dtype)
    top, bottom = min(max(y0, 0), height), max(min(y1, height), 0)
    left, right = min(max(x0, 0), width), max(min(x1, width), 0)
    if bottom > top and right > left:
        out[top - y0 : bottom - y0, left - x0 : right - x0] = image_HWC[top:bottom, left:right]
    return out


def resize(image_HWC: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize to size × size with PIL's antialiased Lanczos filter, as the release does."""
    if image_HWC.shape[:2] == (size, size):
        return image_HWC
    return np.asarray(Image.fromarray(image_HWC).resize((size, size), Image.Resampling.LANCZOS))


def crop_resize(
    image_HWC: NDArray[np.uint8],
    box: ArrayLike,
    size: int,
    pad: Literal["zero", "edge"] = "zero",
) -> NDArray[np.uint8]:
    """Crop a box from an RGB image and resize it to size × size."""
    return resize(crop(image_HWC, box, pad), size)


def crop_affine(box: ArrayLike, size: int) -> NDArray[np.float64]:
    """Return the (2, 3) affine from source pixels to pixels of `crop_resize(..., size)`."""
    x0, y0, x1, y1 = (int(v) for v in np.asarray(box, dtype=np.float64))
    scale_x, scale_y = size / max(x1 - x0, 1), size / max(y1 - y0, 1)
    return np.array([[scale_x, 0, -x0 * scale_x], [0, scale_y, -y0 * scale_y]])


def transform_boxes(boxes: ArrayLike, affine_23: ArrayLike) -> NDArray[np.float64]:
    """Return boxes (..., 4) after an axis-aligned affine such as `crop_affine`'s."""
    b = np.asarray(boxes, dtype=np.float64)
    a = np.asarray(affine_23, dtype=np.float64)
    corners = b.reshape(*b.shape[:-1], 2, 2)
    return (corners @ a[:, :2].T + a[:, 2]).reshape(b.shape)


def similarity(source_N2: ArrayLike, target_N2: ArrayLike) -> NDArray[np.float64]:
    """Return the (2, 3) similarity transform that maps points to others by least squares.

    Source points that coincide all map to the centre of the targets.
    """
    a, b = np.asarray(source_N2, np.float64), np.asarray(target_N2, np.float64)
    # With complex numbers, rotation and scale are one factor, solved by least squares.
    za, zb = ((x - x.mean(0)) @ np.array([1, 1j]) for x in (a, b))
    power = float((np.abs(za) ** 2).sum())
    factor = (np.conj(za) * zb).sum() / power if power > 0 else 0j
    matrix = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    return np.column_stack([matrix, b.mean(0) - matrix @ a.mean(0)])


def iou_matrix(a_N4: NDArray[np.floating], b_M4: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return intersection over union of every pair of boxes, [N, M]."""
    a, b = a_N4[:, None, :], b_M4[None, :, :]
    across = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    down = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    common = np.maximum(across, 0) * np.maximum(down, 0)
    area_a = (a[..., 2] - a[..., 0]) * (a[..., 3] - a[..., 1])
    area_b = (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])
    iou: NDArray[np.floating] = common / np.maximum(area_a + area_b - common, 1e-9)
    return iou
