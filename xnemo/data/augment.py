"""Augmentation of driving crops and samples: one resampling for geometry, one colour matrix."""

# ruff: noqa: N815 - shapes in field names

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from xnemo.data.config import AugmentConfig
from xnemo.data.resize import crop_and_resize

# Luma weights of BT.601, the conventional axis of saturation and hue.
_LUMA = np.array([0.299, 0.587, 0.114])
_RGB_TO_YIQ = np.array([_LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


@dataclass(frozen=True)
class FaceAugmentation:
    """One random augmentation, applied to every frame of a sample.

    Attributes:
        size: side of the crops in pixels.
        stretch_2: factors (x, y) on the sides of the box.
        shift_2: offset (x, y) of the box, as a fraction of its sides.
        warp_HW2: displacement of each sampling position, as a fraction of the crop's side, or None.
        colour_34: affine map of RGB in 0..255, or None.
    """

    size: int
    stretch_2: NDArray[np.float64]
    shift_2: NDArray[np.float64]
    warp_HW2: NDArray[np.float32] | None
    colour_34: NDArray[np.float64] | None

    def apply(self, image_HWC: NDArray[np.uint8], box: NDArray[Any]) -> NDArray[np.uint8]:
        """Crop `box` (x0, y0, x1, y1 in pixels) from a uint8 RGB image and augment it.

        Scale, aspect and shift change the box, so crops are resampled as in animation; without any
        augmentation the result is the crop of animation.
        """
        sides = np.asarray(box[2:]) - box[:2]
        centre = (np.asarray(box[2:]) + box[:2]) / 2 + self.shift_2 * sides
        half = self.stretch_2 * sides / 2
        crop = crop_and_resize(
            image_HWC, np.concatenate([centre - half, centre + half]), self.size, "edge"
        )
        if self.warp_HW2 is not None:
            positions = ((_grid(self.size) + self.warp_HW2 + 0.5) * self.size - 0.5).astype(
                np.float32
            )
            crop = np.asarray(
                cv2.remap(
                    crop,
                    np.ascontiguousarray(positions[..., 0]),
                    np.ascontiguousarray(positions[..., 1]),
                    cv2.INTER_LINEAR,
                    borderMode=cv2.BORDER_REPLICATE,
                ),
                np.uint8,
            )
        if self.colour_34 is not None:
            crop = np.asarray(cv2.transform(crop, self.colour_34), np.uint8)
        return crop


def draw_augmentation(
    config: AugmentConfig, size: int, rng: np.random.Generator
) -> FaceAugmentation:
    """Draw an augmentation for square crops of `size` pixels.

    The number of random values does not depend on the config, so disabling one kind does not change
    the others.
    """
    scale, aspect, shift_x, shift_y = rng.uniform(-1, 1, 4)
    nodes = rng.standard_normal((config.warp_cells + 1, config.warp_cells + 1, 2))
    use_warp, use_colour = rng.random(2)
    colours = rng.uniform(-1, 1, 4)

    zoom = 1 + config.scale * scale
    stretch = np.sqrt(1 + config.aspect * aspect)
    warps = use_warp < config.warp_probability and config.warp > 0
    return FaceAugmentation(
        size=size,
        stretch_2=np.array([zoom * stretch, zoom / stretch]),
        shift_2=config.shift * np.array([shift_x, shift_y]),
        warp_HW2=_piecewise_affine(nodes * config.warp, size) if warps else None,
        colour_34=_colour_matrix(config, colours)
        if use_colour < config.colour_probability
        else None,
    )


def change_appearance(
    frames_THWC: NDArray[np.uint8],
    boxes_T4: NDArray[Any],
    landmarks_T52: NDArray[Any],
    config: AugmentConfig,
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[Any]]:
    """Change colours and mirror all frames of a sample alike, for more variety of identities.

    Args:
        frames_THWC: uint8 RGB frames of reference and targets.
        boxes_T4: face boxes (x0, y0, x1, y1) in pixels.
        landmarks_T52: (x, y) of eyes and mouth corners, left to right in the image, and nose.
        config: strengths.
        rng: the number of values drawn does not depend on the strengths.

    Returns:
        Changed frames, boxes and landmarks.
    """
    use_mirror, draws = rng.random(), rng.uniform(-1, 1, 4)
    if use_mirror < config.mirror:
        frames_THWC = np.ascontiguousarray(frames_THWC[:, :, ::-1])
        x0, y0, x1, y1 = boxes_T4.T
        width = frames_THWC.shape[2]
        boxes_T4 = np.stack([width - x1, y0, width - x0, y1], axis=1)
        # Left and right eye, and left and right mouth corner, swap in the mirrored image.
        landmarks_T52 = landmarks_T52[:, [1, 0, 2, 4, 3]] * [-1, 1] + [width, 0]
    if config.appearance > 0:
        strong = AugmentConfig(brightness=0.3, contrast=0.3, saturation=0.6, hue=0.5)
        colour = _colour_matrix(strong, draws * config.appearance)
        frames_THWC = np.stack([cv2.transform(frame, colour) for frame in frames_THWC])
    return frames_THWC, boxes_T4, landmarks_T52


def _colour_matrix(config: AugmentConfig, draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """Combine brightness, contrast (about mid grey), saturation and hue into a 3x4 matrix."""
    brightness, contrast, saturation, hue = 1 + draws * np.array(
        [config.brightness, config.contrast, config.saturation, config.hue]
    )
    grey = np.tile(_LUMA, (3, 1))
    saturate = saturation * np.eye(3) + (1 - saturation) * grey
    angle = 2 * np.pi * (hue - 1)
    turn = np.array(
        [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    )
    rotate = np.linalg.inv(_RGB_TO_YIQ) @ turn @ _RGB_TO_YIQ
    linear = brightness * contrast * (rotate @ saturate)
    offset = np.full((3, 1), brightness * (1 - contrast) * 127.5)
    return np.hstack([linear, offset])


@lru_cache(maxsize=8)
def _grid(size: int) -> NDArray[np.float32]:
    """Return pixel centres (x, y) of a unit square about the origin, (size, size, 2)."""
    line = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    return np.stack(np.meshgrid(line, line), axis=-1)


@lru_cache(maxsize=8)
def _triangles(size: int, cells: int) -> tuple[NDArray[np.int_], NDArray[np.float32]]:
    """Return each pixel's 3 grid nodes and their barycentric weights, both (3, size, size)."""
    position = (np.arange(size) + 0.5) / size * cells
    cell = np.minimum(position.astype(int), cells - 1)
    fraction = (position - cell).astype(np.float32)
    j, i = np.meshgrid(cell, cell)
    u, v = np.meshgrid(fraction, fraction)
    row = cells + 1
    corner = i * row + j
    lower = u + v <= 1
    nodes = np.stack([np.where(lower, corner, corner + row + 1), corner + 1, corner + row])
    weights = np.stack(
        [np.abs(1 - u - v), np.where(lower, u, 1 - v), np.where(lower, v, 1 - u)]
    ).astype(np.float32)
    return nodes, weights


def _piecewise_affine(nodes_NN2: NDArray[np.float64], size: int) -> NDArray[np.float32]:
    """Interpolate node displacements over a square, affine in each half of a grid cell."""
    index, weights = _triangles(size, len(nodes_NN2) - 1)
    flat = nodes_NN2.reshape(-1, 2).astype(np.float32)
    return np.asarray(sum(weights[k][..., None] * flat[index[k]] for k in range(3)), np.float32)
