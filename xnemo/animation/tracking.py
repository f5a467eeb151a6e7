"""Track one face through a driving video."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from preprocessing.config import ShotConfig
from preprocessing.errors import UserError
from preprocessing.faces.detector import Detector, Face
from preprocessing.faces.look import find_in_image, prominence
from preprocessing.faces.pose import head_pose
from preprocessing.geometry import box_centre, box_side, iou_matrix
from preprocessing.shots import LUMA_SIDE, CutFinder
from xnemo.animation.config import FaceConfig, chosen_face, reference_frame

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
# Overlap with a box given by hand to be the face that is meant.
_MEANT = 0.3
# Below this overlap across a cut, the face is framed anew: a cut within one framing is no seam.
_SAME_FRAMING = 0.5
# Frames without a face up to which the detector has missed it; longer, the face is away.
_MISSED = 12


@dataclass(frozen=True)
class Shot:
    """Frames `start` to `stop` - 1 of one framing, and the one that motion is measured against."""

    start: int
    stop: int
    reference: int


@dataclass(frozen=True, eq=False)
class FaceTrack:
    """The driving face in every frame."""

    # Box per frame (T, 4), gaps filled.
    boxes: NDArray[np.float64]
    # All frames, in order.
    shots: tuple[Shot, ...]
    # Frame whose motion each frame shows (T,): itself, or the last one before the face is away.
    shown: NDArray[np.int64]
    # (height, width) of the frames.
    frame_hw: tuple[int, int]
    # Frames in which detection ran and did not find the face.
    frames_without_face: int = 0
    # Whether nobody was found in a box given by hand, which then stands for the face.
    unmoving: bool = False

    def __len__(self) -> int:
        return len(self.boxes)

    def describe(self) -> str:
        """Return in words what was found."""
        missed, total, cuts = self.frames_without_face, len(self), len(self.shots) - 1
        words = f"found in {total} frames"
        if self.unmoving:
            words = "no face found in the given box, which is used without moving"
        elif missed:
            words = f"{missed} of {total} frames show no face"
        cut = f"; {cuts} cut{'s' * (cuts > 1)}" if cuts else ""
        frames = ", ".join(str(shot.reference) for shot in self.shots[:3])
        more = " ..." if len(self.shots) > 3 else ""
        return f"{words}{cut}; at rest in frame {frames}{more}"


@dataclass(eq=False)
class _Path:
    """Detections of one face, by frame."""

    faces: dict[int, Face] = field(default_factory=dict)
    # Sum of confidence times area: how long and how large the face is seen.
    weight: float = 0.0

    @property
    def last(self) -> NDArray[np.float64]:
        return next(reversed(self.faces.values())).box

    @property
    def last_frame(self) -> int:
        return next(reversed(self.faces))


def find_faces(
    frames: Frames,
    detector: Detector,
    config: FaceConfig | None = None,
    name: str = "the driving video",
    on_frame: Callable[[int], None] | None = None,
    fps: float | None = None,
) -> FaceTrack:
    """Track one face through a clip.

    Detections that overlap or nearly do are joined to paths. The path that is seen longest and
    largest is the driving face; where it is missed, no other face takes over. One that is seen at
    other times, as the same person's after a cut, continues it. Within a shot, frames between
    detections get boxes interpolated in time, and the nearest box is held before and after them.
    Where the face is away for long, as behind a title, the last frame that shows it stands for it.

    Args:
        frames: The clip.
        detector: Finds the faces.
        config: Who is followed, and which frame counts as at rest.
        name: Name of the clip in error messages.
        on_frame: Called with the number of each frame.
        fps: Rate of the frames, for a reference given as a time.

    Raises:
        UserError: There is no frame, no face in any, or not the chosen face or reference frame.
    """
    config = config or FaceConfig()
    named = reference_frame(config.reference, fps)
    chosen = chosen_face(config.driving, "faces.driving")
    paths: list[_Path] = []
    cuts: list[int] = []
    finder = CutFinder(ShotConfig())
    looked, count, frame_hw = 0, 0, (0, 0)
    for number, frame in enumerate(frames):
        count = number + 1
        if number == 0:
            frame_hw = (frame.shape[0], frame.shape[1])
        if finder.is_cut(_luma(frame)):
            cuts.append(number)
        if number % config.every == 0:
            looked += 1
            _extend(paths, find_in_image(detector, frame), number, frame_hw)
        if on_frame is not None:
            on_frame(number)
    if count == 0:
        raise UserError(f"{name} has no frames", "give a video that plays")
    if named is not None and named >= count:
        raise UserError(
            f"faces.reference = {config.reference}, but {name} has {count} frames",
            f"name one from 0 to {count - 1}",
        )
    if isinstance(chosen, int):
        person = _by_size(paths, chosen, name, count)
    else:
        person = _at_box(paths, np.array(chosen))
        if not person:
            return _unmoving(np.array(chosen), count, frame_hw, named or 0, name)
    shots, boxes, shown = _fill(person, cuts, count, config.every, named)
    missed = looked - sum(len(path.faces) for path in person)
    return FaceTrack(boxes, shots, shown, frame_hw, missed)


def rest_frame(boxes_N4: NDArray[np.float64], landmarks_N52: NDArray[np.floating]) -> int:
    """Return which of a shot's detections is the most frontal, neutral and usual one.

    Yaw and roll count from 0. Pitch, the shape of mouth and face, size and place count from the
    shot's median: five landmarks tell them only up to the person's own.
    """
    yaw, pitch, roll = head_pose(landmarks_N52).T.astype(np.float64)
    points = np.asarray(landmarks_N52, np.float64)
    eyes = np.maximum(np.linalg.norm(points[:, 1] - points[:, 0], axis=1), 1e-6)
    mouth = np.linalg.norm(points[:, 4] - points[:, 3], axis=1)
    chin = np.linalg.norm(points[:, 3:].mean(1) - points[:, :2].mean(1), axis=1)
    side = np.maximum(box_side(boxes_N4), 1e-6)
    size = np.maximum(boxes_N4[:, 2:] - boxes_N4[:, :2], 1e-6)
    usual = [
        (pitch, 10),
        (mouth / eyes, 0.1),
        (chin / eyes, 0.1),
        (size[:, 1] / size[:, 0], 0.1),
        (np.log(side), 0.15),
        *((place, 0.3) for place in (box_centre(boxes_N4) / np.median(side)).T),
    ]
    cost = (yaw / 10) ** 2 + (roll / 10) ** 2
    for values, scale in usual:
        cost += ((values - np.median(values)) / scale) ** 2
    return int(np.argmin(cost))


def _luma(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = frame.shape[:2]
    scale = LUMA_SIDE / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)


def _extend(paths: list[_Path], faces: list[Face], number: int, frame_hw: tuple[int, int]) -> None:
    """Append each face to the path whose last box it overlaps most, or start another."""
    height, width = frame_hw
    # Clipped to the frame, as the official release does.
    faces = [
        replace(f, box=np.clip(np.asarray(f.box, np.float64), 0, [width, height] * 2))
        for f in faces
    ]
    free, open_paths = list(range(len(faces))), list(paths)
    if faces and paths:
        last, boxes = np.stack([path.last for path in paths]), np.stack([f.box for f in faces])
        overlap = iou_matrix(last, boxes)
        offset = box_centre(last)[:, None] - box_centre(boxes)[None]
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
                _add(paths[row], faces[column], number)
    for column in free:
        paths.append(_Path())
        _add(paths[-1], faces[column], number)


def _add(path: _Path, face: Face, number: int) -> None:
    path.faces[number] = face
    path.weight += prominence(face)


def _by_size(paths: list[_Path], number: int, name: str, count: int) -> list[_Path]:
    """Return the paths of the n-th person by weight, from 1."""
    if not paths:
        raise UserError(
            f"{name} shows no face in any of its {count} frames",
            "give a clip of a face, upright and larger than about 40 pixels, its box"
            " (--driving-face x0,y0,x1,y1), or another detector",
        )
    left = sorted(paths, key=lambda path: -path.weight)
    for person in range(number):
        if not left:
            raise UserError(
                f"faces.driving = {number}, but {name} shows {person} faces",
                f"use 1 to {person}, or a box x0,y0,x1,y1",
            )
        chosen = _continued(left[0], left[1:])
        left = [path for path in left if path not in chosen]
    return chosen


def _at_box(paths: list[_Path], box: NDArray[np.float64]) -> list[_Path]:
    """Return the paths of the person first seen at a box; none where nobody is."""
    first = [
        (number, -overlap, path)
        for path in paths
        for number, face in path.faces.items()
        if (overlap := float(iou_matrix(box[None], face.box[None])[0, 0])) >= _MEANT
    ]
    if not first:
        return []
    main = min(first, key=lambda found: found[:2])[2]
    others = sorted((p for p in paths if p is not main), key=lambda path: -path.weight)
    return _continued(main, others)


def _continued(main: _Path, others: Sequence[_Path]) -> list[_Path]:
    """Return a path and those that may continue it."""
    chosen = [main]
    for path in others:
        if len(path.faces) >= _LEAST_DETECTIONS and not _overlaps(path, chosen):
            chosen.append(path)
    return chosen


def _overlaps(path: _Path, chosen: list[_Path]) -> bool:
    """Return whether a path begins or ends while one of the chosen ones is seen."""
    first, last = min(path.faces), max(path.faces)
    return any(first <= max(c.faces) and min(c.faces) <= last for c in chosen)


def _fill(
    person: list[_Path], cuts: list[int], count: int, every: int, named: int | None
) -> tuple[tuple[Shot, ...], NDArray[np.float64], NDArray[np.int64]]:
    """Return shots, the box of every frame, and the frame that each one shows."""
    owner = {number: path for path in person for number in path.faces}
    times = sorted(owner)
    faces = [owner[number].faces[number] for number in times]
    found = np.stack([face.box for face in faces])
    shown = np.arange(count)
    starts = [0]
    for i, time in enumerate(times):
        following = times[i + 1] if i + 1 < len(times) else count
        between = [cut for cut in cuts if time < cut <= following]
        end = following
        if i + 1 < len(times):
            overlap = float(iou_matrix(found[i][None], found[i + 1][None])[0, 0])
            other_path = owner[time] is not owner[following]
            if other_path or (between and overlap < _SAME_FRAMING):
                # Frames between a cut and the detection after it are of the new shot.
                end = max(between, default=following)
                starts.append(end)
        # Whatever is between a cut and the next detection, it is not the face.
        away = following - time > _MISSED + every or any(cut < following for cut in between)
        if away and following - time > every:
            shown[time + 1 : end] = time
    if times[0] > _MISSED or any(cut <= times[0] for cut in cuts):
        shown[: times[0]] = times[0]
    boxes = np.empty((count, 4))
    shots = []
    for start, stop in zip(starts, [*starts[1:], count], strict=True):
        inside = [i for i, time in enumerate(times) if start <= time < stop]
        at = np.array([times[i] for i in inside])
        of_shot = found[inside]
        numbers = np.arange(start, stop)
        boxes[start:stop] = np.stack([np.interp(numbers, at, c) for c in of_shot.T], axis=1)
        landmarks = np.stack([faces[i].landmarks_52 for i in inside])
        reference = int(at[rest_frame(of_shot, landmarks)])
        if named is not None and start <= named < stop:
            reference = named
        shots.append(Shot(start, stop, reference))
    return tuple(shots), boxes, shown


def _unmoving(
    box: NDArray[np.float64], count: int, frame_hw: tuple[int, int], reference: int, name: str
) -> FaceTrack:
    check_inside(box, frame_hw, "faces.driving", name)
    return FaceTrack(
        np.tile(box, (count, 1)),
        (Shot(0, count, reference),),
        np.arange(count),
        frame_hw,
        unmoving=True,
    )


def check_inside(
    box: NDArray[np.float64], frame_hw: Sequence[int], setting: str, name: str
) -> None:
    """Raise a UserError if a box given by hand leaves the picture."""
    height, width = frame_hw[:2]
    if box[2] > width or box[3] > height:
        given = ",".join(f"{value:g}" for value in box)
        raise UserError(
            f"{setting} = {given} reaches out of {name}, which is {width}×{height}",
            "give x0,y0,x1,y1 in its pixels",
        )
