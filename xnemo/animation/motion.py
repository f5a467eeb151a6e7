"""From tracked driving frames to motion tokens: crop the face, encode chunk by chunk."""

from collections.abc import Iterator
from dataclasses import dataclass
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

# Least size of a face that is exaggerated, in sizes of the portrait's.
_LEAST_SCALE = 0.1


@dataclass(frozen=True, eq=False)
class Motion:
    """The motion of a driving video, whatever portrait it will move."""

    # (T, latent width): motion inside the crops, on the CPU, in the type the encoder computes in.
    face: Tensor
    # Place and size of the face.
    track: FaceTrack

    def __len__(self) -> int:
        return len(self.face)


def box_vectors(
    track: FaceTrack,
    reference_box: NDArray[np.float64],
    mode: BoxMode = "relative",
    sigma: float = 2.0,
    strength: float = 1.0,
) -> NDArray[np.float32]:
    """Return the (T, 3) position and scale vectors of a track.

    Args:
        track: The driving face.
        reference_box: Face box in the portrait, in the portrait's pixels.
        mode: "relative" measures against the reference frame of each shot: there the generated face
            is at the portrait's position, and it moves as the driving face does. "real" measures
            against the portrait's box as training does, which is right where both are of one shot.
            "constant" is (0, 0, 1), as in the official release, and keeps the face still.
        sigma: Gaussian smoothing of the vectors over time, in frames, against detector jitter;
            never across a cut.
        strength: Factor on the difference to the reference frame.
    """
    if mode == "constant":
        return np.tile(np.array([0, 0, 1], np.float32), (len(track), 1))
    vectors = np.empty((len(track), 3))
    for shot in track.shots:
        against = track.boxes[shot.reference] if mode == "relative" else reference_box
        moved = geometry.box_vector(track.boxes[shot.start : shot.stop], against)
        if sigma > 0:
            moved = gaussian_filter1d(moved, sigma, axis=0, mode="nearest")
        rest = moved[shot.reference - shot.start].copy()
        if mode == "relative":
            # Smoothing moves the reference frame off (0, 0, 1), the portrait's own position.
            moved, rest = moved - rest + np.array([0, 0, 1]), np.array([0, 0, 1])
        if strength != 1:
            moved = rest + strength * (moved - rest)
            moved[:, 2] = np.maximum(moved[:, 2], _LEAST_SCALE)
        vectors[shot.start : shot.stop] = moved
    return vectors[track.shown].astype(np.float32)


@torch.no_grad()
def encode_faces(
    encoder: MotionEncoder, frames: Frames, track: FaceTrack, chunk: int = 32
) -> Tensor:
    """Return the motion (T, latent width) inside the driving crops of a clip, on the CPU.

    Frames are cropped as they come and dropped once encoded: at most `chunk` crops are held.

    Args:
        encoder: The motion encoder, in evaluation mode.
        frames: The clip; iterated once.
        track: Its face.
        chunk: Frames encoded at once.
    """
    crops = _crops(frames, track, encoder.config["image_size"])
    faces = []
    while batch := list(islice(crops, chunk)):
        faces.append(encode_crops(encoder, np.stack(batch)))
    return torch.cat(faces)[torch.from_numpy(track.shown)]


@torch.no_grad()
def encode_crops(encoder: MotionEncoder, crops_NHWC: NDArray[np.uint8]) -> Tensor:
    """Return the motion (N, latent width) inside driving crops, on the CPU.

    Runs the whole forward pass: hooks that move an offloaded encoder to its device act on that.
    """
    parameter = next(encoder.parameters())
    rest = torch.tensor([[0.0, 0.0, 1.0]]).expand(len(crops_NHWC), 3).to(parameter)
    face: Tensor = encoder(to_tensor(crops_NHWC).to(parameter), rest).face
    return face.cpu()


@torch.no_grad()
def motion_tokens(
    encoder: MotionEncoder, motion: Motion, vectors_T3: NDArray[np.float32], strength: float = 1.0
) -> Tensor:
    """Return the tokens (T, L, D) of a motion at given positions, fp32 on the CPU.

    Args:
        encoder: The motion encoder, in evaluation mode.
        motion: What it made of a driving video.
        vectors_T3: Position and scale per frame.
        strength: Factor on the difference of each frame's latent to that of the reference frame of
            its shot.
    """
    parameter = next(encoder.parameters())
    face_TD = motion.face
    if strength != 1:
        rest = torch.cat(
            [face_TD[s.reference].expand(s.stop - s.start, -1) for s in motion.track.shots]
        )
        face_TD = torch.lerp(rest, face_TD, strength)
    boxes = torch.from_numpy(vectors_T3)
    return encoder.place(face_TD.to(parameter), boxes.to(parameter)).tokens.float().cpu()


def _crops(frames: Frames, track: FaceTrack, size: int) -> Iterator[NDArray[np.uint8]]:
    boxes = np.concatenate(
        [
            geometry.driving_crop_boxes(
                track.boxes[shot.start : shot.stop],
                track.frame_hw,
                sized_by=shot.reference - shot.start,
            )
            for shot in track.shots
        ]
    )
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
