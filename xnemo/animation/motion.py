"""From tracked driving frames to motion tokens: crop the face, encode chunk by chunk."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from preprocessing import geometry
from xnemo.animation.config import BoxMode
from xnemo.animation.tracking import FaceTrack, Frames
from xnemo.model.motion.encoder import MotionEncoder


def box_vectors(
    track: FaceTrack,
    reference_box: NDArray[np.float64],
    mode: BoxMode = "relative",
    sigma: float = 2.0,
) -> NDArray[np.float32]:
    """Return the (T, 3) position and scale vectors of a track.

    Args:
        track: The driving face.
        reference_box: Face box in the portrait, in the portrait's pixels.
        mode: "relative" measures against the first driving frame: the generated face starts at the
            portrait's position and moves as the driving face does. "real" measures against the
            portrait's box as training does, which is right where both are of one shot. "constant"
            is (0, 0, 1), as in the official release, and keeps the face still.
        sigma: Gaussian smoothing of the vectors over time, in frames, against detector jitter.
    """
    if mode == "constant":
        return np.tile(np.array([0, 0, 1], np.float32), (len(track), 1))
    against = track.boxes[0] if mode == "relative" else reference_box
    vectors = geometry.box_vector(track.boxes, against)
    if sigma > 0:
        vectors = gaussian_filter1d(vectors, sigma, axis=0, mode="nearest")
    if mode == "relative":
        # Smoothing moves the first vector off (0, 0, 1), the portrait's own position.
        vectors = vectors - vectors[0] + np.array([0, 0, 1])
    return vectors.astype(np.float32)


@torch.no_grad()
def encode_motion(
    encoder: MotionEncoder,
    frames: Frames,
    track: FaceTrack,
    vectors_T3: NDArray[np.float32],
    chunk: int = 32,
) -> Tensor:
    """Return the motion tokens (T, L, D) of a clip, fp32 on the CPU.

    Frames are cropped as they come and dropped once encoded: at most `chunk` crops are held.

    Args:
        encoder: The motion encoder, in evaluation mode.
        frames: The clip; iterated once.
        track: Its face.
        vectors_T3: Position and scale per frame.
        chunk: Frames encoded at once.
    """
    parameter = next(encoder.parameters())
    crops = _crops(frames, track, encoder.config["image_size"])
    tokens = []
    start = 0
    while batch := list(islice(crops, chunk)):
        boxes = torch.from_numpy(vectors_T3[start : start + len(batch)])
        images = to_tensor(np.stack(batch))
        latent = encoder(images.to(parameter), boxes.to(parameter))
        tokens.append(latent.tokens.float().cpu())
        start += len(batch)
    return torch.cat(tokens)


def _crops(frames: Frames, track: FaceTrack, size: int) -> Iterator[NDArray[np.uint8]]:
    boxes = geometry.driving_crop_boxes(track.boxes, track.frame_hw)
    for frame, box in zip(frames, boxes, strict=False):
        yield geometry.crop_resize(frame, box, size)


def blend_motion(first_TLD: Tensor, second_TLD: Tensor, start: float, end: float) -> Tensor:
    """Interpolate linearly between the motion tokens of two clips, as long as the shorter one.

    Args:
        first_TLD: Motion at weight 0.
        second_TLD: Motion at weight 1.
        start: Weight of the second at the first frame.
        end: Weight of the second at the last frame.
    """
    length = min(len(first_TLD), len(second_TLD))
    weight_T11 = torch.linspace(start, end, length).view(-1, 1, 1)
    return torch.lerp(first_TLD[:length], second_TLD[:length], weight_T11)


def to_tensor(images_NHWC: NDArray[np.uint8]) -> Tensor:
    """Return uint8 images as float32 (N, 3, H, W) in [-1, 1]."""
    x = torch.from_numpy(np.array(images_NHWC)).permute(0, 3, 1, 2)
    return x.float().div_(127.5).sub_(1)
