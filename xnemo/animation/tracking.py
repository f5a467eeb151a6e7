"""Track one face through a driving video."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from preprocessing.errors import UserError
from preprocessing.faces.detector import Detector, Face
from preprocessing.faces.look import find_in_image
from preprocessing.geometry import box_centre, box_side, iou_matrix

# A clip that can be iterated more than once: a list, an array, or an object that reopens its file.
# Frames are RGB uint8 (height, width, 3).
Frames = Iterable[NDArray[np.uint8]]

# Least overlap (IoU) with a face's last box to be the same face.
_SAME_FACE = 0.2
# Where nothing overlaps: largest distance from a face's last centre, in sides of its box, and
# longest time since in frames.
_NEAR, _RECENT = 1.0, 25
# Detections that a second face needs to continue where the first one is not seen, as after a cut.
_LEAST_DETECTIONS = 5


@dataclass(frozen=True)
class FaceTrack:
    """The driving face in every frame."""

    # Box per frame (T, 4), gaps filled.
    boxes: NDArray[np.float64]
    # Frames in which detection ran and did not find the face.
    frames_without_face: int
    # (height, width) of the frames.
    frame_hw: tuple[int, int]
    # How often the face goes on elsewhere in the frame, as after a cut.
    jumps: int = 0

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(eq=False)
class _Path:
    """Detections of one face, by frame."""

    boxes: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    # Sum of confidence times area: how long and how large the face is seen.
    weight: float = 0.0

    @property
    def last(self) -> NDArray[np.float64]:
        return next(reversed(self.boxes.values()))

    @property
    def last_frame(self) -> int:
        return next(reversed(self.boxes))


def find_faces(
    frames: Frames,
    detector: Detector,
    every: int = 1,
    name: str = "the driving video",
    on_frame: Callable[[int], None] | None = None,
) -> FaceTrack:
    """Track one face through a clip.

    Detections that overlap or nearly do are joined to paths. The path that is seen longest and
    largest is the driving face; where it is missed, no other face takes over. One that is seen at
    other times, as the same person's after a cut, continues it. Frames between detections and
    frames without the face get boxes interpolated in time; outside the first and last detection
    the nearest box is held.

    Args:
        frames: The clip.
        detector: Finds the faces.
        every: Run detection in every n-th frame.
        name: Name of the clip in error messages.
        on_frame: Called with the number of each frame.

    Raises:
        UserError: There is no frame, or no face in any.
    """
    paths: list[_Path] = []
    looked, count, frame_hw = 0, 0, (0, 0)
    for number, frame in enumerate(frames):
        count = number + 1
        if number == 0:
            frame_hw = (frame.shape[0], frame.shape[1])
        if number % every == 0:
            looked += 1
            _extend(paths, find_in_image(detector, frame), number, frame_hw)
        if on_frame is not None:
            on_frame(number)
    if count == 0:
        raise UserError(f"{name} has no frames", "give a video that plays")
    if not paths:
        raise UserError(
            f"{name} shows no face in any of its {count} frames",
            "give a clip of a face, upright and larger than about 40 pixels, or another detector",
        )
    chosen = _choose(paths)
    found = dict(sorted((n, box) for path in chosen for n, box in path.boxes.items()))
    times = np.array(list(found))
    boxes = np.stack(list(found.values()))
    filled = np.stack([np.interp(np.arange(count), times, boxes[:, i]) for i in range(4)], axis=1)
    return FaceTrack(filled, looked - len(found), frame_hw, jumps=len(chosen) - 1)


def prominence(face: Face) -> float:
    """Return a face's confidence times its area."""
    width, height = face.box[2] - face.box[0], face.box[3] - face.box[1]
    return float(face.score * max(width, 0) * max(height, 0))


def _extend(paths: list[_Path], faces: list[Face], number: int, frame_hw: tuple[int, int]) -> None:
    """Append each face to the path whose last box it overlaps most, or start another."""
    height, width = frame_hw
    # Clipped to the frame, as the official release does.
    boxes = [np.clip(np.asarray(f.box, np.float64), 0, [width, height] * 2) for f in faces]
    free, open_paths = list(range(len(faces))), list(paths)
    if faces and paths:
        last = np.stack([path.last for path in paths])
        overlap = iou_matrix(last, np.stack(boxes))
        offset = box_centre(last)[:, None] - box_centre(np.stack(boxes))[None]
        distance = np.linalg.norm(offset, axis=2) / np.maximum(box_side(last)[:, None], 1e-6)
        recent = np.array([number - path.last_frame <= _RECENT for path in paths])[:, None]
        # Overlap decides first, then nearness.
        near = np.where(recent & (distance <= _NEAR), _SAME_FACE * (1 - distance / _NEAR), -1)
        likeness = np.where(overlap >= _SAME_FACE, overlap + 1, near)
        for flat in np.argsort(-likeness, axis=None, kind="stable"):
            row, column = (int(i) for i in np.unravel_index(flat, likeness.shape))
            if likeness[row, column] < 0:
                break
            if paths[row] in open_paths and column in free:
                open_paths.remove(paths[row])
                free.remove(column)
                _add(paths[row], faces[column], boxes[column], number)
    for column in free:
        paths.append(_Path())
        _add(paths[-1], faces[column], boxes[column], number)


def _add(path: _Path, face: Face, box: NDArray[np.float64], number: int) -> None:
    path.boxes[number] = box
    path.weight += prominence(face)


def _choose(paths: list[_Path]) -> list[_Path]:
    """Return the path of the greatest weight, and others that may continue it."""
    main, *others = sorted(paths, key=lambda path: -path.weight)
    chosen = [main]
    for path in others:
        if len(path.boxes) >= _LEAST_DETECTIONS and not _overlaps(path, chosen):
            chosen.append(path)
    return chosen


def _overlaps(path: _Path, chosen: list[_Path]) -> bool:
    """Return whether a path begins or ends while one of the chosen ones is seen."""
    first, last = min(path.boxes), max(path.boxes)
    return any(first <= max(c.boxes) and min(c.boxes) <= last for c in chosen)
