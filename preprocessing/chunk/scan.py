"""Looks for faces on a stride, again wherever two looks disagree, and joins them into tracks."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from preprocessing.config import DetectConfig, TrackConfig
from preprocessing.decode import Tick
from preprocessing.faces import Detector, Face
from preprocessing.faces.network import pad_around
from preprocessing.faces.track import Embed, Tracker
from preprocessing.geometry import iou_matrix
from preprocessing.storage.sample import DETECTED, INTERPOLATED


@dataclass(frozen=True, eq=False)
class Detection:
    """A face at one tick, in pixels of the upright source frame."""

    # Box (x0, y0, x1, y1), float32 [4], and landmarks, float32 [5, 2].
    box: np.ndarray
    landmarks_52: np.ndarray
    # Confidence of the detector; of the nearer look where interpolated.
    score: float
    # Bits as in `SampleArrays.flags`.
    flags: int
    # True where the detector looked here or nearby and did not find the face.
    bridged: bool = False


@dataclass(frozen=True, eq=False)
class Scanned:
    """One tick and everybody who is in it."""

    tick: Tick
    # By track number; None for a face lost a moment ago that may come back.
    detections: dict[int, Detection | None]


class Scanner:
    """Scans one shot. Push ticks; what comes out lags behind by up to a stride.

    Holds at most `stride` decoded frames.
    """

    def __init__(
        self, detector: Detector, detect: DetectConfig, track: TrackConfig, fps: float
    ) -> None:
        self._detector = detector
        self._config = detect
        # Whom two looks in a row find was never lost, however far apart the looks are.
        self._gap = max(detect.stride, round(track.gap_s * fps))
        self._tracker = Tracker(track, self._gap)
        self._pending: list[Tick] = []
        self._look: tuple[Tick, list[Face]] | None = None
        self._last_seen: dict[int, tuple[int, Face]] = {}
        self._latest_look = -1
        #: Number of times the detector ran.
        self.looks = 0

    def push(self, tick: Tick) -> Iterator[Scanned]:
        """Take the next tick; yield those that are decided."""
        self._pending.append(tick)
        if self._look is None or len(self._pending) >= self._config.stride:
            yield from self._settle()

    def flush(self) -> Iterator[Scanned]:
        """Yield what is left at the end of the shot."""
        if self._pending:
            yield from self._settle()

    def _settle(self) -> Iterator[Scanned]:
        """Look at the last pending tick and wherever needed before it; then decide all of them."""
        pending, self._pending = self._pending, []
        looks: dict[int, list[Face]] = {len(pending) - 1: self._detect(pending[-1])}
        if self._look is not None:
            looks[-1] = self._look[1]
            self._refine(pending, looks, -1, len(pending) - 1)
        by_position: dict[int, dict[int, Face]] = {}
        for position in sorted(p for p in looks if p >= 0):
            tick = pending[position]
            embed = self._embedder(tick) if self._detector.recognises else None
            by_position[position] = self._tracker.update(tick.number, looks[position], embed)
        self._look = (pending[-1], looks[len(pending) - 1])
        yield from self._interpolate(pending, by_position)

    def _refine(
        self, pending: list[Tick], looks: dict[int, list[Face]], before: int, after: int
    ) -> None:
        if after - before <= 1 or _agree(looks[before], looks[after], self._config.refine_iou):
            return
        middle = (before + after) // 2
        looks[middle] = self._detect(pending[middle])
        self._refine(pending, looks, before, middle)
        self._refine(pending, looks, middle, after)

    def _interpolate(
        self, pending: list[Tick], by_position: dict[int, dict[int, Face]]
    ) -> Iterator[Scanned]:
        positions = sorted(by_position)
        for position, tick in enumerate(pending):
            here: dict[int, Detection | None] = {}
            following = next(p for p in positions if p >= position)
            for number, face in by_position[following].items():
                if following == position:
                    here[number] = Detection(face.box, face.landmarks_52, face.score, DETECTED)
                    self._last_seen[number] = (tick.number, face)
                elif number in self._last_seen:
                    seen, earlier = self._last_seen[number]
                    later = pending[following].number
                    if seen == self._previous_look(pending, positions, position):
                        share = (tick.number - seen) / (later - seen)
                        here[number] = _between(earlier, face, share)
            for number, (seen, _) in self._last_seen.items():
                if number not in here and 0 < tick.number - seen <= self._gap:
                    here[number] = None
            self._last_seen = {
                n: s for n, s in self._last_seen.items() if tick.number - s[0] <= self._gap
            }
            yield Scanned(tick, here)
        self._latest_look = pending[-1].number

    def _previous_look(self, pending: list[Tick], positions: list[int], position: int) -> int:
        """Return the tick number of the latest look before a pending position."""
        earlier = [p for p in positions if p < position]
        return pending[earlier[-1]].number if earlier else self._latest_look

    def _detect(self, tick: Tick) -> list[Face]:
        """Look at one frame, always at the same size: a box depends on it by some hundredths."""
        self.looks += 1
        frame = tick.frame
        picture = frame.rgb_scaled(self._config.size)
        height, width = picture.shape[:2]
        faces = self._detector.detect(picture)
        if not faces:
            padded, dx, dy = pad_around(picture, 0.35)
            faces = [f.moved(1, 1, -dx, -dy) for f in self._detector.detect(padded)]
        return [f.moved(frame.width / width, frame.height / height) for f in faces]

    def _embedder(self, tick: Tick) -> Embed:
        picture: list[np.ndarray] = []
        known: dict[int, np.ndarray] = {}

        def embed(face: Face) -> np.ndarray:
            if id(face) not in known:
                if not picture:
                    picture.append(tick.frame.rgb())
                known[id(face)] = self._detector.embed(picture[0], face.landmarks_52)
            return known[id(face)]

        return embed


def _agree(before: list[Face], after: list[Face], least_iou: float) -> bool:
    """Tell whether two looks show the same faces in nearly the same places."""
    if len(before) != len(after):
        return False
    if not before:
        return True
    overlap = iou_matrix(np.stack([f.box for f in before]), np.stack([f.box for f in after]))
    partners = overlap.argmax(axis=1)
    return len(set(partners.tolist())) == len(before) and bool(
        (overlap.max(axis=1) >= least_iou).all()
    )


def _between(a: Face, b: Face, share: float) -> Detection:
    return Detection(
        box=(a.box * (1 - share) + b.box * share).astype(np.float32),
        landmarks_52=(a.landmarks_52 * (1 - share) + b.landmarks_52 * share).astype(np.float32),
        score=a.score if share < 0.5 else b.score,
        flags=INTERPOLATED,
    )
