"""Detects faces on a stride, and again between detections that disagree; joins them into tracks."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from preprocessing.config import DetectConfig, TrackConfig
from preprocessing.decode import Tick
from preprocessing.faces import Detector, Face
from preprocessing.faces.look import find_in_image
from preprocessing.faces.track import Embed, Tracker
from preprocessing.geometry import iou_matrix
from preprocessing.storage.sample import DETECTED, INTERPOLATED


@dataclass(frozen=True, eq=False)
class Detection:
    """A face at one tick, in pixels of the upright source frame."""

    # Box (x0, y0, x1, y1), float32 [4], and landmarks, float32 [5, 2].
    box: np.ndarray
    landmarks_52: np.ndarray
    # Confidence of the detector; of the nearer detection where interpolated.
    score: float
    # Bits as in `SampleArrays.flags`.
    flags: int
    # True where the detector ran on this or a nearby frame and did not find the face.
    bridged: bool = False


@dataclass(frozen=True, eq=False)
class Scanned:
    """One tick and the faces in it."""

    tick: Tick
    # By track number; None for a face lost recently that may come back.
    detections: dict[int, Detection | None]


class Scanner:
    """Scans one shot. Push ticks; the results lag behind by up to a stride.

    Holds at most `stride` decoded frames.
    """

    def __init__(
        self, detector: Detector, detect: DetectConfig, track: TrackConfig, fps: float
    ) -> None:
        self._detector = detector
        self._config = detect
        # A face that two successive detections find was not lost, however far apart they are.
        self._gap = max(detect.stride, round(track.gap_s * fps))
        self._tracker = Tracker(track, self._gap)
        self._pending: list[Tick] = []
        self._latest: tuple[Tick, list[Face]] | None = None
        self._last_seen: dict[int, tuple[int, Face]] = {}
        self._latest_tick = -1
        #: Number of frames the detector processed.
        self.detector_runs = 0

    def push(self, tick: Tick) -> Iterator[Scanned]:
        """Add the next tick; yield those that are decided."""
        self._pending.append(tick)
        if self._latest is None or len(self._pending) >= self._config.stride:
            yield from self._settle()

    def flush(self) -> Iterator[Scanned]:
        """Yield the remaining ticks at the end of the shot."""
        if self._pending:
            yield from self._settle()

    def _settle(self) -> Iterator[Scanned]:
        """Detect in the last pending tick and wherever needed before it; decide all of them."""
        pending, self._pending = self._pending, []
        sampled: dict[int, list[Face]] = {len(pending) - 1: self._detect(pending[-1])}
        if self._latest is not None:
            sampled[-1] = self._latest[1]
            self._refine(pending, sampled, -1, len(pending) - 1)
        by_position: dict[int, dict[int, Face]] = {}
        for position in sorted(p for p in sampled if p >= 0):
            tick = pending[position]
            embed = self._embedder(tick) if self._detector.recognises else None
            by_position[position] = self._tracker.update(tick.number, sampled[position], embed)
        self._latest = (pending[-1], sampled[len(pending) - 1])
        yield from self._interpolate(pending, by_position)

    def _refine(
        self, pending: list[Tick], sampled: dict[int, list[Face]], before: int, after: int
    ) -> None:
        if after - before <= 1 or _agree(sampled[before], sampled[after], self._config.refine_iou):
            return
        middle = (before + after) // 2
        sampled[middle] = self._detect(pending[middle])
        self._refine(pending, sampled, before, middle)
        self._refine(pending, sampled, middle, after)

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
                    if seen == self._previous_detection(pending, positions, position):
                        share = (tick.number - seen) / (later - seen)
                        here[number] = _between(earlier, face, share)
            for number, (seen, _) in self._last_seen.items():
                if number not in here and 0 < tick.number - seen <= self._gap:
                    here[number] = None
            self._last_seen = {
                n: s for n, s in self._last_seen.items() if tick.number - s[0] <= self._gap
            }
            yield Scanned(tick, here)
        self._latest_tick = pending[-1].number

    def _previous_detection(self, pending: list[Tick], positions: list[int], position: int) -> int:
        """Return the tick number of the latest detection before a pending position."""
        earlier = [p for p in positions if p < position]
        return pending[earlier[-1]].number if earlier else self._latest_tick

    def _detect(self, tick: Tick) -> list[Face]:
        """Detect in one frame, always at the same size: boxes differ by some hundredths with it."""
        self.detector_runs += 1
        frame = tick.frame
        image = frame.rgb_scaled(self._config.size)
        height, width = image.shape[:2]
        faces = find_in_image(self._detector, image)
        return [f.moved(frame.width / width, frame.height / height) for f in faces]

    def _embedder(self, tick: Tick) -> Embed:
        image: list[np.ndarray] = []
        known: dict[int, np.ndarray] = {}

        def embed(face: Face) -> np.ndarray:
            if id(face) not in known:
                if not image:
                    image.append(tick.frame.rgb())
                known[id(face)] = self._detector.embed(image[0], face.landmarks_52)
            return known[id(face)]

        return embed


def _agree(before: list[Face], after: list[Face], least_iou: float) -> bool:
    """Return whether two samples show the same faces in nearly the same positions."""
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
