"""Links detections of successive sampled frames into face tracks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from preprocessing.config import TrackConfig
from preprocessing.faces import Face
from preprocessing.geometry import iou_matrix

# Below this IoU, two faces cannot be confused.
_RIVAL_IOU = 0.1

Embed = Callable[[Face], np.ndarray]


@dataclass
class Track:
    """One face in one shot."""

    # Order of appearance in the shot.
    number: int
    # The latest detection and its tick.
    face: Face
    tick: int
    # Identity descriptor; empty until first needed, or without a recogniser.
    identity: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))


def _pairs(value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of the assignment with the largest sum."""
    # Imported here because it is slow and the driver of a job never needs it.
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(-value)
    return rows, columns


class Tracker:
    """Tracks faces through a shot by overlap, and by identity where overlap is ambiguous."""

    def __init__(self, config: TrackConfig, gap_ticks: int) -> None:
        self._config = config
        self._gap_ticks = gap_ticks
        self._count = 0
        self.active: list[Track] = []

    def update(self, tick: int, faces: Sequence[Face], embed: Embed | None) -> dict[int, Face]:
        """Assign the faces of one sampled frame to tracks; return them by track number.

        Tracks unseen for longer than the gap end before matching.

        Args:
            tick: Number of the frame.
            faces: Detections in the frame.
            embed: Returns the identity descriptor of one of `faces`. It is called only where faces
                are close together, or a lost one may have returned.
        """
        self.active = [t for t in self.active if tick - t.tick <= self._gap_ticks]
        assigned = self._by_overlap(faces, embed)
        self._resume_lost(faces, assigned, tick, embed)
        for index, face in enumerate(faces):
            if index not in assigned:
                track = Track(self._count, face, tick)
                self._count += 1
                self.active.append(track)
                assigned[index] = track
        for index, track in assigned.items():
            track.face, track.tick = faces[index], tick
            if embed is not None and not len(track.identity):
                track.identity = embed(faces[index])
        return {track.number: faces[index] for index, track in assigned.items()}

    def _by_overlap(self, faces: Sequence[Face], embed: Embed | None) -> dict[int, Track]:
        if not faces or not self.active:
            return {}
        overlap = iou_matrix(
            np.stack([t.face.box for t in self.active]), np.stack([f.box for f in faces])
        )
        value = overlap.copy()
        rivals = overlap > _RIVAL_IOU
        if embed is not None and ((rivals.sum(0) > 1).any() or (rivals.sum(1) > 1).any()):
            value = np.where(rivals, overlap + self._likeness(faces, embed), overlap)
        rows, columns = _pairs(value)
        return {
            int(c): self.active[int(r)]
            for r, c in zip(rows, columns, strict=True)
            if overlap[r, c] >= self._config.iou
        }

    def _resume_lost(
        self, faces: Sequence[Face], assigned: dict[int, Track], tick: int, embed: Embed | None
    ) -> None:
        """Assign faces without overlap to recently lost tracks of similar identity."""
        taken = {id(track) for track in assigned.values()}
        lost = [t for t in self.active if id(t) not in taken and len(t.identity)]
        free = [i for i in range(len(faces)) if i not in assigned]
        if embed is None or not lost or not free:
            return
        likeness = np.array([[float(t.identity @ embed(faces[i])) for i in free] for t in lost])
        rows, columns = _pairs(likeness)
        for r, c in zip(rows, columns, strict=True):
            near = _distance(lost[r].face, faces[free[c]]) < 2 + 0.1 * (tick - lost[r].tick)
            if likeness[r, c] >= self._config.likeness and near:
                assigned[free[int(c)]] = lost[int(r)]

    def _likeness(self, faces: Sequence[Face], embed: Embed) -> np.ndarray:
        descriptors = [embed(face) for face in faces]
        return np.array(
            [
                [
                    float(t.identity @ d) if len(t.identity) == len(d) > 0 else 0.0
                    for d in descriptors
                ]
                for t in self.active
            ]
        )


def _distance(a: Face, b: Face) -> float:
    """Return the distance of two faces' centres in units of the first one's side."""
    centre_a, centre_b = ((f.box[:2] + f.box[2:]) / 2 for f in (a, b))
    side = max(float((a.box[2:] - a.box[:2]).max()), 1.0)
    return float(np.linalg.norm(centre_a - centre_b)) / side
