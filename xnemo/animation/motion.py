"""From driving frames to motion tokens: track the face, crop it, encode chunk by chunk."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from preprocessing import geometry
from preprocessing.errors import UserError
from preprocessing.faces.detector import Detector, Face
from xnemo.animation.config import BoxMode
from xnemo.model.motion.encoder import MotionEncoder

# A clip that can be iterated more than once: a list, an array, or an object that reopens its file.
# Frames are RGB uint8 (height, width, 3).
Frames = Iterable[NDArray[np.uint8]]

# Least overlap (IoU) with the previous box for a face to count as the same one.
_SAME_FACE_OVERLAP = 0.2


@dataclass(frozen=True)
class FaceTrack:
    """The driving face in every frame."""

    # Box per frame (T, 4), gaps filled.
    boxes: NDArray[np.float64]
    # Frames in which detection ran and found no face.
    frames_without_face: int
    # (height, width) of the frames.
    frame_hw: tuple[int, int]

    def __len__(self) -> int:
        return len(self.boxes)


def find_faces(
    frames: Frames,
    detector: Detector,
    every: int = 1,
    name: str = "the driving video",
    on_frame: Callable[[int], None] | None = None,
) -> FaceTrack:
    """Track one face through a clip.

    The track starts with the most prominent face and continues with the box that overlaps the last
    one most, so that a second face does not take over. Frames between detections and frames
    without a face get boxes interpolated in time; outside the first and last detection the nearest
    box is held.

    Args:
        frames: The clip.
        detector: Finds the faces.
        every: Run detection in every n-th frame.
        name: Name of the clip in error messages.
        on_frame: Called with the number of each frame.

    Raises:
        UserError: There is no frame, or no face in any.
    """
    found: dict[int, NDArray[np.float64]] = {}
    looked, count, frame_hw = 0, 0, (0, 0)
    last: NDArray[np.float64] | None = None
    for number, frame in enumerate(frames):
        count = number + 1
        if number == 0:
            frame_hw = (frame.shape[0], frame.shape[1])
        if number % every == 0:
            looked += 1
            face = _continue_with(detector.detect(frame), last)
            if face is not None:
                last = found[number] = _inside(face.box, frame_hw)
        if on_frame is not None:
            on_frame(number)
    if count == 0:
        raise UserError(f"{name} has no frames", "give a video that plays")
    if not found:
        raise UserError(
            f"{name} shows no face in any of its {count} frames",
            "give a clip of a face, upright and larger than about 40 pixels, or another detector",
        )
    times = np.array(sorted(found))
    boxes = np.stack([found[t] for t in times])
    filled = np.stack([np.interp(np.arange(count), times, boxes[:, i]) for i in range(4)], axis=1)
    return FaceTrack(filled, looked - len(found), frame_hw)


def prominence(face: Face) -> float:
    """Return a face's confidence times its area."""
    width, height = face.box[2] - face.box[0], face.box[3] - face.box[1]
    return float(face.score * max(width, 0) * max(height, 0))


def _continue_with(faces: list[Face], last: NDArray[np.float64] | None) -> Face | None:
    if not faces:
        return None
    if last is not None:
        nearest = max(faces, key=lambda face: _iou(face.box, last))
        if _iou(nearest.box, last) >= _SAME_FACE_OVERLAP:
            return nearest
    return max(faces, key=prominence)


def _iou(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    shared = float(np.prod(np.maximum(high - low, 0)))
    total = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - shared
    return shared / total if total > 0 else 0.0


def _inside(box: NDArray[np.floating], frame_hw: tuple[int, int]) -> NDArray[np.float64]:
    """Clip a box to the frame, as the official release does."""
    height, width = frame_hw
    return np.clip(np.asarray(box, dtype=np.float64), 0, [width, height, width, height])


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
