"""Cuts tracks into clips of bounded length, memory and movement."""

from collections.abc import Iterator, Sequence

import numpy as np

from preprocessing.chunk.scan import Detection, Scanned
from preprocessing.chunk.track import Clip, OpenTrack, TrackFrame
from preprocessing.chunk.tube import CropBuffer, buffer_crop, covers, tube_box
from preprocessing.config import TubeConfig
from preprocessing.decode import Tick
from preprocessing.geometry import box_side, union_box


class ClipCutter:
    """Collects the frames of all tracks of one shot and cuts them into clips.

    A track is cut where it reaches `max_s`, where the face leaves the crops buffered from earlier
    frames, and where memory runs out. A remainder shorter than `min_s` is avoided where possible.
    Frames are released as soon as their clip is cut.
    """

    def __init__(
        self,
        config: TubeConfig,
        shot: int,
        fps: float,
        gap_ticks: int,
        core: tuple[int | None, int | None] = (None, None),
    ) -> None:
        """Initialise for one shot.

        Args:
            config: lengths, sizes and the memory limit.
            shot: the shot's number in the chunk.
            fps: ticks per second.
            gap_ticks: longest run of ticks to interpolate over.
            core: first tick and the tick after the last one whose clips belong to this chunk.
                Two chunks see the frames beyond; both apply the same rule to a track that crosses
                an edge: one that ends less than `min_s` after the edge belongs to the chunk before,
                one that begins less than `min_s` before the edge to the chunk after, and any other
                is cut at the edge.
        """
        self._config = config
        self._core_start, self._core_end = core
        self._done: set[int] = set()
        self._shot = shot
        self._gap = gap_ticks
        self._min = round(config.min_s * fps)
        self._max = round(config.max_s * fps)
        self._open: dict[int, OpenTrack] = {}

    def push(self, scanned: Scanned) -> Iterator[Clip]:
        """Add one tick; yield the clips it completes."""
        tick = scanned.tick
        frame_hw = (tick.frame.height, tick.frame.width)
        self._frame_hw = frame_hw
        for number in [n for n in self._open if n not in scanned.detections]:
            yield from self._close(number)
        for number, detection in scanned.detections.items():
            if number in self._done:
                continue
            track = self._open.setdefault(number, OpenTrack())
            if detection is None and not track.frames:
                continue
            if detection is not None and track.lost > self._gap:
                yield from self._close(number)
                track = self._open.setdefault(number, OpenTrack())
            yield from self._add(number, track, tick, detection, scanned)
        yield from self._relieve_memory()

    def flush(self) -> Iterator[Clip]:
        """Yield the remaining clips at the end of the shot."""
        for number in sorted(self._open):
            yield from self._close(number)

    def _add(
        self,
        number: int,
        track: OpenTrack,
        tick: Tick,
        detection: Detection | None,
        scanned: Scanned,
    ) -> Iterator[Clip]:
        box = detection.box if detection else track.last_box
        others = [d.box for n, d in scanned.detections.items() if n != number and d is not None]
        frame = TrackFrame(
            tick=tick.number,
            time_us=tick.time_us,
            pts_us=tick.frame.pts_us,
            src_frame=tick.frame.index,
            crop=self._buffer(track, tick, box),
            detection=detection,
            others=np.array(others, dtype=np.float32).reshape(-1, 4),
        )
        if detection is not None and track.frames:
            track.fill_gap(detection)
            if not self._fits(track, frame):
                yield from self._split(number, track, frame)
                track = self._open.setdefault(number, OpenTrack())
        track.append(frame)
        if detection is not None:
            yield from self._cut_at_edges(number, track, tick.number)
            if len(track.frames) >= self._max + self._min:
                yield from self._cut(number, track.take(self._longest(track)))

    def _cut_at_edges(self, number: int, track: OpenTrack, now: int) -> Iterator[Clip]:
        first = track.frames[0].tick
        start, end = self._core_start, self._core_end
        if start is not None and now >= start + self._min and first <= start - self._min:
            track.take(sum(f.tick < start for f in track.frames))
        if end is not None and now >= end + self._min:
            inside = sum(f.tick < end for f in track.frames)
            if inside >= self._min:
                yield from self._cut(number, track.take(inside))
            self._open.pop(number, None)
            self._done.add(number)

    def _longest(self, track: OpenTrack) -> int:
        """Return how many frames to cut off a full track; enough remain at the chunk's end."""
        if self._core_end is None:
            return self._max
        left = self._core_end - (track.frames[0].tick + self._max)
        return self._max - (self._min - left) if 0 < left < self._min else self._max

    def _is_ours(self, first: int, last: int) -> bool:
        """Return whether a clip of these first and last ticks belongs to this chunk."""
        if self._core_start is not None and first < self._core_start:
            began_late = first > self._core_start - self._min
            if not began_late or last < self._core_start + self._min:
                return False
        return self._core_end is None or first < self._core_end

    def _buffer(self, track: OpenTrack, tick: Tick, box: np.ndarray) -> CropBuffer:
        last = track.frames[-1] if track.frames else None
        if last is not None and last.src_frame == tick.frame.index:
            return last.crop
        return buffer_crop(tick.frame, box, self._config)

    def _fits(self, track: OpenTrack, new: TrackFrame) -> bool:
        """Return whether all crop buffers cover a tube around the track and a new frame."""
        union, common = track.with_added(new)
        if union is None or new.detection is None:
            return True
        own = min(track.smallest, float(box_side(new.detection.box)))
        if box_side(union) > self._config.max_wander * own:
            return False
        tube = tube_box(union, self._frame_hw, self._config)
        return covers(common, tube, self._frame_hw)

    def _split(self, number: int, track: OpenTrack, new: TrackFrame) -> Iterator[Clip]:
        """Cut a track before a frame that does not fit; frames at its end that fit go with it.

        Otherwise a face that comes to rest just before its shot ends would leave a clip too short
        to train on. The older clip keeps at least `min_s`.
        """
        count = len(track.frames)
        least = max(count - self._min, min(count, self._min))
        ahead = OpenTrack()
        ahead.append(new)
        while count > least and self._fits(ahead, track.frames[count - 1]):
            count -= 1
            ahead.append(track.frames[count])
        if count == len(track.frames):
            yield from self._close(number)
        else:
            yield from self._cut_in_two(number, track.take(count))

    def _close(self, number: int) -> Iterator[Clip]:
        track = self._open.pop(number)
        lost = track.lost
        frames = track.frames[: len(track.frames) - lost]
        yield from self._cut_in_two(number, frames)

    def _cut_in_two(self, number: int, frames: Sequence[TrackFrame]) -> Iterator[Clip]:
        """Cut one clip, or two equal ones where they are more than one may hold."""
        if len(frames) > self._max:
            half = len(frames) // 2
            yield from self._cut(number, frames[:half])
            yield from self._cut(number, frames[half:])
        else:
            yield from self._cut(number, frames)

    def _relieve_memory(self) -> Iterator[Clip]:
        """Cut the largest track early while the crop buffers exceed the memory limit."""
        limit = self._config.buffer_mb * 2**20
        while sum(t.bytes for t in self._open.values()) > limit:
            number = max(self._open, key=lambda n: (self._open[n].bytes, -n))
            track = self._open[number]
            spare = len(track.frames) - track.lost - self._min
            if spare >= self._min:
                yield from self._cut(number, track.take(spare))
            else:
                yield from self._close(number)

    def _cut(self, number: int, frames: Sequence[TrackFrame]) -> Iterator[Clip]:
        filled = [f for f in frames if f.detection is not None]
        if len(filled) != len(frames):
            # A cut inside a gap: frames after the last detection belong to no clip.
            frames = frames[: frames.index(filled[-1]) + 1] if filled else []
        if not frames or not self._is_ours(frames[0].tick, frames[-1].tick):
            return
        detections = [f.detection for f in frames if f.detection is not None]
        bbox = _smooth(np.stack([d.box for d in detections]), self._config.smooth_frames)
        landmarks = _smooth(
            np.stack([d.landmarks_52 for d in detections]), self._config.smooth_frames
        )
        tube = tube_box(union_box(bbox), self._frame_hw, self._config)
        if not all(covers(f.crop.box, tube, self._frame_hw) for f in frames):
            # Smoothing can move the centre by more than it shrinks the union; the tube of the raw
            # boxes is always covered.
            raw = np.stack([d.box for d in detections])
            tube = tube_box(union_box(raw), self._frame_hw, self._config)
        yield Clip(
            track=number,
            shot=self._shot,
            frames=list(frames),
            bbox=bbox,
            landmarks=landmarks,
            tube=tube,
            frame_hw=self._frame_hw,
        )


def _smooth(values_T: np.ndarray, sigma: float) -> np.ndarray:
    """Return values smoothed over time by a Gaussian, ends repeated."""
    if sigma <= 0 or len(values_T) < 2:
        return values_T.astype(np.float32)
    # Slow to import, and not needed to plan or finalize a job.
    from scipy.ndimage import gaussian_filter1d

    smooth = gaussian_filter1d(values_T.astype(np.float64), sigma, axis=0, mode="nearest")
    return np.asarray(smooth, dtype=np.float32)
