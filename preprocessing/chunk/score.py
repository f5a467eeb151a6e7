"""Scores of a clip: one number each, and some per frame.

All image scores are computed on the face alone, from the luma of the source, before encoding.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from preprocessing.chunk.overlay import occlusion_of, overlay_of
from preprocessing.chunk.track import Clip, TrackFrame
from preprocessing.chunk.tube import pad_fraction
from preprocessing.decode.pixels.planes import plane_array
from preprocessing.faces.pose import head_pose
from preprocessing.geometry import union_box
from preprocessing.storage.sample import DETECTED, OUT_OF_FRAME

# Side at which faces are compared, and the largest side at which sharpness is measured.
_SMALL = 48
_LARGE = 192
# Frames between two images whose difference is motion: a fifth of a second.
_STEP = 5
# Frames searched for what stands still over the face.
_VIEWS = 16
# A part of the box larger than this outside the frame counts.
_OUT = 0.05


@dataclass(frozen=True, eq=False)
class FrameScores:
    """Values per frame, beside boxes."""

    pose: np.ndarray
    sharpness: np.ndarray
    flags: np.ndarray
    # Aligned faces, uint8 [T, 48, 48].
    faces: np.ndarray


def score_clip(clip: Clip, fps: float) -> tuple[dict[str, float | None], FrameScores]:
    """Return the clip's scores by the names of `index.SCORES` and `score`, and those of frames."""
    faces = [_face_luma(f, b) for f, b in zip(clip.frames, clip.bbox, strict=True)]
    small = np.stack([cv2.resize(f, (_SMALL, _SMALL), interpolation=cv2.INTER_AREA) for f in faces])
    sharpness = np.array([sharpness_of(face) for face in faces], dtype=np.float32)
    pose = head_pose(clip.landmarks)
    flags = np.array([f.detection.flags for f in clip.frames if f.detection], dtype=np.uint8)
    outside = _outside(clip.bbox, clip.frame_hw)
    flags = flags | np.where(outside > _OUT, OUT_OF_FRAME, 0).astype(np.uint8)
    sides = (clip.bbox[:, 2:] - clip.bbox[:, :2]).max(axis=1)
    union = union_box(clip.bbox)
    detections = np.array([f.detection.score for f in clip.frames if f.detection])
    detected = (flags & DETECTED) > 0
    face_px = float(np.median(sides))
    brightness = (small.astype(np.float32) - 16) / 219
    scores: dict[str, float | None] = {
        "face_px": face_px,
        "picture_px": float(min(*clip.frame_hw, clip.tube[2] - clip.tube[0])),
        "detection": float(np.median(detections[detected] if detected.any() else detections)),
        "detected_fraction": 1.0 - _lost_share(clip),
        "yaw": float(np.median(pose[:, 0])),
        "pitch": float(np.median(pose[:, 1])),
        "roll": float(np.median(pose[:, 2])),
        "yaw_range": float(_spread(pose[:, 0])),
        "sharpness": float(np.median(sharpness)),
        "exposure": float(np.median(brightness)),
        "contrast": float(np.median(_spread(brightness.reshape(len(faces), -1), axis=1))),
        "motion": motion_of(small),
        "mouth_range": _mouth_range(clip.landmarks),
        "centre_shift": float((union[2:] - union[:2]).max() / max(face_px, 1.0) - 1),
        "out_of_frame": float((outside > _OUT).mean()),
        "pad_fraction": pad_fraction(clip.tube, clip.frame_hw),
        "others": _others(clip),
        "occlusion": occlusion_of(small),
        "overlay": overlay_of(*_fixed_view(clip)),
        "repeated": _repeated(clip),
    }
    scores["score"] = summary_of(scores)
    return {n: None if v is None else round(v, 6) for n, v in scores.items()}, FrameScores(
        pose=pose, sharpness=sharpness, flags=flags, faces=small
    )


def summary_of(scores: Mapping[str, float | None]) -> float:
    """Return one number for sorting clips, 0 to 1; large, sharp, frontal, certain, whole is best.

    The geometric mean of five shares, so that one low share is not compensated by the rest. No
    filter reads it.
    """
    shares = (
        (scores["face_px"] or 0.0) / 256,
        (scores["sharpness"] or 0.0) / 0.4,
        1 - abs(scores["yaw"] or 0.0) / 90,
        scores["detection"] or 0.0,
        1 - max(scores["out_of_frame"] or 0.0, scores["others"] or 0.0, scores["occlusion"] or 0.0),
    )
    return float(np.prod(np.clip(shares, 0.01, 1.0)) ** (1 / len(shares)))


def sharpness_of(luma_HW: np.ndarray) -> float:
    """Return how much of an image's detail a slight blur removes, 0 (blurred) to 1.

    Blurring a blurred image changes little. The measure compares neighbouring pixels before and
    after, along both axes, and takes the smaller value, so that motion blur along one axis counts.
    """
    image = luma_HW.astype(np.float32)
    shares = []
    for axis in (0, 1):
        # OpenCV names sizes width first.
        blurred = cv2.blur(image, (1, 5) if axis == 0 else (5, 1))
        before = np.abs(np.diff(image, axis=axis))
        after = np.abs(np.diff(blurred, axis=axis))
        shares.append(float(np.maximum(before - after, 0).sum() / max(float(before.sum()), 1e-6)))
    return min(shares)


def motion_of(small_THW: np.ndarray) -> float:
    """Return the median change of aligned face images over a fifth of a second, 0 to 1."""
    if len(small_THW) <= _STEP:
        return 0.0
    image = small_THW.astype(np.float32)
    change = np.abs(image[_STEP:] - image[:-_STEP]).mean(axis=(1, 2)) / 255
    return float(np.median(change))


def _face_luma(frame: TrackFrame, box: np.ndarray) -> np.ndarray:
    """Return the brightness of the face box, at its own size up to `_LARGE`."""
    crop = frame.crop
    luma = plane_array(crop.image, 0)
    height, width = luma.shape
    x0, x1 = ((round(float(e)) - crop.x0) // crop.shrink for e in (box[0], box[2]))
    y0, y1 = ((round(float(e)) - crop.y0) // crop.shrink for e in (box[1], box[3]))
    x0, y0 = min(max(0, x0), width - 2), min(max(0, y0), height - 2)
    face = luma[y0 : max(y0 + 2, y1), x0 : max(x0 + 2, x1)]
    scale = _LARGE / max(face.shape)
    if scale >= 1:
        return np.ascontiguousarray(face)
    size = (max(2, round(face.shape[1] * scale)), max(2, round(face.shape[0] * scale)))
    return cv2.resize(face, size, interpolation=cv2.INTER_AREA)


def _fixed_view(clip: Clip) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a few frames of what is around all of the clip's faces, boxes and landmarks in it."""
    picks = np.unique(np.linspace(0, len(clip.frames) - 1, _VIEWS).round().astype(int))
    crops = [clip.frames[i].crop for i in picks]
    covered = np.array([crop.box for crop in crops])
    union = union_box(clip.bbox)
    # Whole source pixels that all of these crops cover.
    x0, y0 = (int(v) for v in np.maximum(np.floor(union[:2]), covered[:, :2].max(axis=0)))
    x1, y1 = (int(v) for v in np.minimum(np.ceil(union[2:]), covered[:, 2:].min(axis=0)))
    x1, y1 = max(x1, x0 + 8), max(y1, y0 + 8)
    shrink = max(crop.shrink for crop in crops)
    size = (max(4, (x1 - x0) // shrink), max(4, (y1 - y0) // shrink))
    images = []
    for crop in crops:
        luma = plane_array(crop.image, 0)
        rows = slice((y0 - crop.y0) // crop.shrink, (y1 - crop.y0) // crop.shrink)
        columns = slice((x0 - crop.x0) // crop.shrink, (x1 - crop.x0) // crop.shrink)
        images.append(cv2.resize(luma[rows, columns], size, interpolation=cv2.INTER_AREA))
    scale = np.array(size * 2) / np.array([x1 - x0, y1 - y0] * 2)
    return (
        np.stack(images),
        (clip.bbox[picks] - [x0, y0, x0, y0]) * scale,
        (clip.landmarks[picks] - [x0, y0]) * scale[:2],
    )


def _outside(bbox_T4: np.ndarray, frame_hw: tuple[int, int]) -> np.ndarray:
    """Return the share of each box that lies outside the frame."""
    limit = np.array([frame_hw[1], frame_hw[0]], dtype=np.float32)
    seen = np.maximum(np.minimum(bbox_T4[:, 2:], limit) - np.maximum(bbox_T4[:, :2], 0), 0)
    area = (bbox_T4[:, 2:] - bbox_T4[:, :2]).prod(axis=1)
    return np.asarray(1 - seen.prod(axis=1) / np.maximum(area, 1e-6))


def _lost_share(clip: Clip) -> float:
    """Return the share of frames bridged over a gap, where the detector ran but found no face."""
    lost = sum(1 for f in clip.frames if f.detection is not None and f.detection.bridged)
    return lost / len(clip.frames)


def _others(clip: Clip) -> float:
    """Return the share of frames with another face, a third as large or more, inside the tube."""
    hits = 0
    for frame, own in zip(clip.frames, clip.bbox, strict=True):
        if not len(frame.others):
            continue
        sides = frame.others[:, 2:] - frame.others[:, :2]
        low = np.maximum(frame.others[:, :2], clip.tube[:2])
        seen = np.maximum(np.minimum(frame.others[:, 2:], clip.tube[2:]) - low, 0)
        inside = seen.prod(axis=1) / np.maximum(sides.prod(axis=1), 1e-6)
        large = sides.max(axis=1) > (own[2:] - own[:2]).max() / 3
        hits += bool(((inside > 0.3) & large).any())
    return hits / len(clip.frames)


def _repeated(clip: Clip) -> float:
    """Return the share of frames that show the same source frame as the one before."""
    numbers = np.array([f.src_frame for f in clip.frames])
    return float((np.diff(numbers) == 0).mean()) if len(numbers) > 1 else 0.0


def _mouth_range(landmarks_T52: np.ndarray) -> float:
    """Return how far the mouth moves from the nose, over the distance of the eyes."""
    eyes = np.linalg.norm(landmarks_T52[:, 1] - landmarks_T52[:, 0], axis=1)
    mouth = landmarks_T52[:, 3:].mean(axis=1)
    opening = np.linalg.norm(mouth - landmarks_T52[:, 2], axis=1) / np.maximum(eyes, 1e-6)
    return float(_spread(opening))


def _spread(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Return the distance of the 5th from the 95th percentile."""
    low, high = np.percentile(values, [5, 95], axis=axis)
    return np.asarray(high - low)
