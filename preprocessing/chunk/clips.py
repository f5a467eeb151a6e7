"""Cuts tracks into clips of bounded length, memory and movement."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from preprocessing.chunk.scan import Detection, Scanned
from preprocessing.chunk.tube import Neighbourhood, covers, keep, tube_box
from preprocessing.config import TubeConfig
from preprocessing.decode import Tick
from preprocessing.geometry import Box, box_side, union_box
from preprocessing.storage.sample import INTERPOLATED


@dataclass(frozen=True, eq=False)
class TrackFrame:
    """One frame of a track."""

    tick: int
    time_us: int
    pts_us: int
    src_frame: int
    part: Neighbourhood
    # None while the face is lost; filled in by interpolation or cut off.
    detection: Detection | None
    # Boxes of everybody else in the frame, float32 [N, 4].
    others: np.ndarray


@dataclass(frozen=True, eq=False)
class Clip:
    """A stretch of one track with its tube, not yet scored or encoded."""

    # Number of the person within the shot, and of the shot within the chunk.
    track: int
    shot: int
    moments: Sequence[TrackFrame]
    # Smoothed boxes [T, 4] and landmarks [T, 5, 2] in source pixels.
    bbox: np.ndarray
    landmarks: np.ndarray
    # The square in source pixels, and the frame it lies in.
    tube: Box
    frame_hw: tuple[int, int]


@dataclass
class _Open:
    """A track that may grow."""

    moments: list[TrackFrame] = field(default_factory=list)
    bytes: int = 0
    # Union of all face boxes, and what was kept of every frame alike.
    union: np.ndarray | None = None
    common: np.ndarray | None = None
    # Larger side of the smallest face box.
    smallest: float = np.inf

    def append(self, moment: TrackFrame) -> None:
        self.moments.append(moment)
        if moment.detection is not None:
            self.smallest = min(self.smallest, float(box_side(moment.detection.box)))
        self.bytes += moment.part.bytes
        self.union, self.common = self.with_added(moment)

    def with_added(self, moment: TrackFrame) -> tuple[np.ndarray | None, np.ndarray]:
        """Return the union of boxes and the common neighbourhood as they would be with one more."""
        union, common = self.union, np.array(moment.part.box)
        if moment.detection is not None:
            box = moment.detection.box
            union = box if union is None else union_box(np.stack([union, box]))
        if self.common is not None:
            inner, outer = self.common, common
            common = np.concatenate(
                [np.maximum(inner[:2], outer[:2]), np.minimum(inner[2:], outer[2:])]
            )
        return union, common

    def take(self, count: int) -> list[TrackFrame]:
        taken, rest = self.moments[:count], self.moments[count:]
        self.moments, self.bytes, self.union, self.common = [], 0, None, None
        self.smallest = np.inf
        for moment in rest:
            self.append(moment)
        return taken


class ClipCutter:
    """Collects the frames of all tracks of one shot and cuts them into clips.

    A track is cut where it reaches `max_s`, where the face leaves the neighbourhood that was kept
    of earlier frames, and where memory runs out; never so that a remainder shorter than `min_s` is
    left over, if it can be helped. Frames are handed on and forgotten as soon as their clip is cut.
    """

    def __init__(
        self,
        config: TubeConfig,
        shot: int,
        fps: float,
        gap_ticks: int,
        core: tuple[int | None, int | None] = (None, None),
    ) -> None:
        """Start on a shot.

        Args:
            config: lengths, sizes and the memory limit.
            shot: the shot's number in the chunk.
            fps: ticks per second.
            gap_ticks: longest run of ticks to interpolate over.
            core: first tick and the tick after the last one whose clips belong to this chunk.
                Frames beyond are seen by two chunks; both apply one rule to a track that crosses an
                edge: what ends less than `min_s` after the edge belongs before it, what begins less
                than `min_s` before the edge belongs after it, and everything else is cut at the
                edge.
        """
        self._config = config
        self._core_start, self._core_end = core
        self._done: set[int] = set()
        self._shot = shot
        self._gap = gap_ticks
        self._min = round(config.min_s * fps)
        self._max = round(config.max_s * fps)
        self._open: dict[int, _Open] = {}

    def push(self, scanned: Scanned) -> Iterator[Clip]:
        """Take one tick; yield the clips it completes."""
        tick = scanned.tick
        frame_hw = (tick.frame.height, tick.frame.width)
        self._frame_hw = frame_hw
        for number in [n for n in self._open if n not in scanned.detections]:
            yield from self._close(number)
        for number, detection in scanned.detections.items():
            if number in self._done:
                continue
            track = self._open.setdefault(number, _Open())
            if detection is None and not track.moments:
                continue
            if detection is not None and self._lost_for(track) > self._gap:
                yield from self._close(number)
                track = self._open.setdefault(number, _Open())
            yield from self._add(number, track, tick, detection, scanned)
        yield from self._relieve_memory()

    def flush(self) -> Iterator[Clip]:
        """Yield what is left at the end of the shot."""
        for number in sorted(self._open):
            yield from self._close(number)

    def _add(
        self, number: int, track: _Open, tick: Tick, detection: Detection | None, scanned: Scanned
    ) -> Iterator[Clip]:
        box = detection.box if detection else self._last_box(track)
        others = [s.box for n, s in scanned.detections.items() if n != number and s is not None]
        moment = TrackFrame(
            tick=tick.number,
            time_us=tick.time_us,
            pts_us=tick.frame.pts_us,
            src_frame=tick.frame.index,
            part=self._keep(track, tick, box),
            detection=detection,
            others=np.array(others, dtype=np.float32).reshape(-1, 4),
        )
        if detection is not None and track.moments:
            _fill_gap(track.moments, detection)
            if not self._fits(track, moment):
                yield from self._part(number, track, moment)
                track = self._open.setdefault(number, _Open())
        track.append(moment)
        if detection is not None:
            yield from self._cut_at_edges(number, track, tick.number)
            if len(track.moments) >= self._max + self._min:
                yield from self._cut(number, track.take(self._longest(track)))

    def _cut_at_edges(self, number: int, track: _Open, now: int) -> Iterator[Clip]:
        first = track.moments[0].tick
        start, end = self._core_start, self._core_end
        if start is not None and now >= start + self._min and first <= start - self._min:
            track.take(sum(m.tick < start for m in track.moments))
        if end is not None and now >= end + self._min:
            inside = sum(m.tick < end for m in track.moments)
            if inside >= self._min:
                yield from self._cut(number, track.take(inside))
            self._open.pop(number, None)
            self._done.add(number)

    def _longest(self, track: _Open) -> int:
        """Return how many frames to cut off a full track, so that the chunk's end leaves enough."""
        if self._core_end is None:
            return self._max
        left = self._core_end - (track.moments[0].tick + self._max)
        return self._max - (self._min - left) if 0 < left < self._min else self._max

    def _is_ours(self, first: int, last: int) -> bool:
        """Tell whether a clip of these first and last ticks belongs to this chunk."""
        if self._core_start is not None and first < self._core_start:
            began_late = first > self._core_start - self._min
            if not began_late or last < self._core_start + self._min:
                return False
        return self._core_end is None or first < self._core_end

    def _keep(self, track: _Open, tick: Tick, box: np.ndarray) -> Neighbourhood:
        last = track.moments[-1] if track.moments else None
        if last is not None and last.src_frame == tick.frame.index:
            return last.part
        return keep(tick.frame, box, self._config)

    def _fits(self, track: _Open, new: TrackFrame) -> bool:
        """Tell whether a tube around the track and a new frame was kept in all its frames."""
        union, common = track.with_added(new)
        if union is None or new.detection is None:
            return True
        own = min(track.smallest, float(box_side(new.detection.box)))
        if box_side(union) > self._config.max_wander * own:
            return False
        tube = tube_box(union, self._frame_hw, self._config)
        return covers(common, tube, self._frame_hw)

    def _part(self, number: int, track: _Open, new: TrackFrame) -> Iterator[Clip]:
        """Cut a track before a frame that does not fit; what fits of its end goes with the new.

        Without that head start a face that comes to rest just before its shot ends would leave a
        clip too short to learn from. The older clip keeps `min_s` all the same.
        """
        count = len(track.moments)
        least = max(count - self._min, min(count, self._min))
        ahead = _Open()
        ahead.append(new)
        while count > least and self._fits(ahead, track.moments[count - 1]):
            count -= 1
            ahead.append(track.moments[count])
        if count == len(track.moments):
            yield from self._close(number)
        else:
            yield from self._cut_in_two(number, track.take(count))

    def _lost_for(self, track: _Open) -> int:
        lost = 0
        for moment in reversed(track.moments):
            if moment.detection is not None:
                break
            lost += 1
        return lost

    def _last_box(self, track: _Open) -> np.ndarray:
        return next(m.detection.box for m in reversed(track.moments) if m.detection is not None)

    def _close(self, number: int) -> Iterator[Clip]:
        track = self._open.pop(number)
        lost = self._lost_for(track)
        moments = track.moments[: len(track.moments) - lost]
        yield from self._cut_in_two(number, moments)

    def _cut_in_two(self, number: int, moments: Sequence[TrackFrame]) -> Iterator[Clip]:
        """Cut one clip, or two equal ones where they are more than one may hold."""
        if len(moments) > self._max:
            half = len(moments) // 2
            yield from self._cut(number, moments[:half])
            yield from self._cut(number, moments[half:])
        else:
            yield from self._cut(number, moments)

    def _relieve_memory(self) -> Iterator[Clip]:
        """Cut the largest track early while the frames that wait take too much."""
        limit = self._config.buffer_mb * 2**20
        while sum(t.bytes for t in self._open.values()) > limit:
            number = max(self._open, key=lambda n: (self._open[n].bytes, -n))
            track = self._open[number]
            spare = len(track.moments) - self._lost_for(track) - self._min
            if spare >= self._min:
                yield from self._cut(number, track.take(spare))
            else:
                yield from self._close(number)

    def _cut(self, number: int, moments: Sequence[TrackFrame]) -> Iterator[Clip]:
        filled = [m for m in moments if m.detection is not None]
        if len(filled) != len(moments):
            # A cut inside a gap: frames after the last detection belong to nobody.
            moments = moments[: moments.index(filled[-1]) + 1] if filled else []
        if not moments or not self._is_ours(moments[0].tick, moments[-1].tick):
            return
        detections = [m.detection for m in moments if m.detection is not None]
        bbox = _smooth(np.stack([s.box for s in detections]), self._config.smooth_frames)
        landmarks = _smooth(
            np.stack([s.landmarks_52 for s in detections]), self._config.smooth_frames
        )
        tube = tube_box(union_box(bbox), self._frame_hw, self._config)
        if not all(covers(m.part.box, tube, self._frame_hw) for m in moments):
            # Smoothing can move the centre by more than it shrinks the union; what was asked for
            # when frames were kept is always there.
            raw = np.stack([s.box for s in detections])
            tube = tube_box(union_box(raw), self._frame_hw, self._config)
        yield Clip(
            track=number,
            shot=self._shot,
            moments=list(moments),
            bbox=bbox,
            landmarks=landmarks,
            tube=tube,
            frame_hw=self._frame_hw,
        )


def _fill_gap(moments: list[TrackFrame], later: Detection) -> None:
    """Interpolate over the frames at the end in which the face was lost."""
    known = len(moments) - 1
    while moments[known].detection is None:
        known -= 1
    earlier = moments[known].detection
    assert earlier is not None
    span = len(moments) - known
    for position in range(known + 1, len(moments)):
        share = (position - known) / span
        between = Detection(
            box=(earlier.box * (1 - share) + later.box * share).astype(np.float32),
            landmarks_52=(earlier.landmarks_52 * (1 - share) + later.landmarks_52 * share).astype(
                np.float32
            ),
            score=min(earlier.score, later.score),
            flags=INTERPOLATED,
            bridged=True,
        )
        moments[position] = replace(moments[position], detection=between)


def _smooth(values_T: np.ndarray, sigma: float) -> np.ndarray:
    """Return values smoothed over time by a Gaussian, ends repeated."""
    if sigma <= 0 or len(values_T) < 2:
        return values_T.astype(np.float32)
    # Takes longer to import than all else here, and whoever only plans or seals needs it never.
    from scipy.ndimage import gaussian_filter1d

    smooth = gaussian_filter1d(values_T.astype(np.float64), sigma, axis=0, mode="nearest")
    return smooth.astype(np.float32)
