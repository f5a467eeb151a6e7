"""The reference decoder: PyAV, one thread, constant memory, damage skipped and reported."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cached_property

import av
import av.error
import av.stream
import numpy as np

from preprocessing.decode.failure import DamagedSpan, DecodeError
from preprocessing.decode.frame import Frame
from preprocessing.decode.pyav.container import declared_size, open_container, seconds
from preprocessing.decode.pyav.deinterlace import deinterlaced
from preprocessing.decode.pyav.packet_loop import PacketLoop
from preprocessing.decode.pyav.presentation import refuse_unshown
from preprocessing.decode.pyav.structure import container_family, missing_bytes
from preprocessing.decode.reader import VideoInfo
from preprocessing.decode.source import DecodeLimits, Source, open_bytes
from preprocessing.decode.timeline import MICROSECONDS, Timeline, timeline_of

# Distances in seconds before a requested time at which seeking is tried, in turn.
_SEEK_MARGINS_S = (0.0, 2.0, 12.0, 40.0, math.inf)


class PyavReader:
    """Reads the first video stream of a source that is not cover art; see `VideoReader`."""

    def __init__(self, source: Source, limits: DecodeLimits | None = None) -> None:
        self._source = source
        self._limits = limits or DecodeLimits()
        self._damage: list[DamagedSpan] = []
        self.info = self._probe()

    @property
    def damage(self) -> Sequence[DamagedSpan]:
        """Damaged spans met by the latest `frames()`; complete once that is exhausted."""
        return tuple(self._damage)

    def frames(
        self,
        start_s: float | None = None,
        end_s: float | None = None,
        index_at_start: int | None = None,
    ) -> Iterator[Frame]:
        """Yield frames in [start_s, end_s) in order; see `VideoReader.frames`."""
        start_us = None if start_s is None else round(start_s * MICROSECONDS)
        end_us = None if end_s is None else round(end_s * MICROSECONDS)
        if start_us is not None and start_us <= self.info.start_us:
            start_us = None
        index = 0
        if start_us is not None:
            index = index_at_start if index_at_start is not None else self._index_at(start_us)
        self._damage = []
        for frame in self._decoded(start_us, end_us, self._damage):
            if start_us is not None and frame.pts_us < start_us:
                continue
            if end_us is not None and frame.pts_us >= end_us:
                return
            frame.index = index
            index += 1
            yield frame

    def frames_at(self, indices: Sequence[int]) -> np.ndarray:
        """Return frames by number as RGB [T, H, W, 3]; see `VideoReader.frames_at`."""
        wanted = sorted(set(indices))
        if wanted and wanted[0] < 0:
            raise IndexError(f"frame numbers start at 0, got {wanted[0]}")
        found: dict[int, np.ndarray] = {}
        for run in self._runs(wanted):
            for frame in self._from_index(run[0]):
                if frame.index in run:
                    found[frame.index] = frame.rgb()
                if frame.index >= run[-1]:
                    break
        absent = [index for index in wanted if index not in found]
        if absent:
            raise IndexError(f"the source has no frame number {absent[0]}")
        shapes = {image.shape for image in found.values()}
        if len(shapes) > 1:
            raise DecodeError("unsupported", "the requested frames differ in size")
        if not wanted:
            return np.zeros((0, self.info.height, self.info.width, 3), dtype=np.uint8)
        return np.stack([found[index] for index in indices])

    def frame_at_time(self, time_s: float) -> Frame:
        """Return the frame on screen at `time_s`; see `VideoReader.frame_at_time`."""
        time_us = round(time_s * MICROSECONDS)
        timeline = self.timeline
        if timeline.is_exact and len(timeline.pts_us):
            frames = self._from_index(timeline.index_on_screen(time_us))
            return next(iter(frames))
        latest: Frame | None = None
        for frame in self.frames():
            if latest is not None and frame.pts_us > time_us:
                break
            latest = frame
        assert latest is not None, "a reader exists only for a source with a frame"
        return latest

    @cached_property
    def timeline(self) -> Timeline:
        """Times of all frames, by one pass over the packets without decoding."""
        with self._open() as (container, stream):
            loop = PacketLoop(container, stream, self._limits)
            return timeline_of(loop.packets(), _time_base(stream), self.info.codec)

    def close(self) -> None:
        """Do nothing: no file is held between calls."""

    def __enter__(self) -> "PyavReader":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _index_at(self, time_us: int) -> int:
        if self.timeline.is_exact:
            return self.timeline.index_at(time_us)
        return sum(1 for frame in self._decoded(None, time_us, []) if frame.pts_us < time_us)

    def _runs(self, wanted: list[int]) -> list[list[int]]:
        """Group sorted frame numbers into runs that are each decoded without another seek."""
        runs: list[list[int]] = []
        for index in wanted:
            jump = (
                self.timeline.is_exact and runs and self.timeline.key_before(index) > runs[-1][-1]
            )
            if not runs or jump:
                runs.append([index])
            else:
                runs[-1].append(index)
        return runs

    def _from_index(self, index: int) -> Iterator[Frame]:
        """Yield frames from number `index` on, by seeking where packets number the frames."""
        timeline = self.timeline
        if not timeline.is_exact or index >= len(timeline.pts_us) or index == 0:
            yield from self.frames()
            return
        start_us = int(timeline.pts_us[index])
        for frame in self._decoded(start_us, None, []):
            # The rank of its time, so that frames lost to damage keep their numbers.
            frame.index = timeline.index_at(frame.pts_us)
            if frame.index >= index:
                yield frame

    def _probe(self) -> VideoInfo:
        with self._open() as (container, stream):
            codec = stream.codec_context
            aspect = stream.sample_aspect_ratio
            loop = self._loop(container, stream, [])
            first = next(loop.frames(None), None)
            if first is None:
                raise self._nothing_decoded(loop)
            frame, orientation = first.video_frame, first.orientation
            refuse_unshown(stream, frame)
            size = orientation.displayed_size(frame.width, frame.height)
            declared = None if stream.duration is None else stream.duration * _time_base(stream)
            if declared is None and container.duration is not None:
                declared = Fraction(container.duration, av.time_base)
            return VideoInfo(
                width=size[0],
                height=size[1],
                coded_width=frame.width,
                coded_height=frame.height,
                fps=float(stream.average_rate or stream.guessed_rate or 0),
                duration_s=seconds(None if declared is None else float(declared)),
                start_us=first.pts_us,
                codec=codec.name,
                pixel_format=frame.format.name,
                bit_depth=frame.format.components[0].bits,
                rotation=orientation.rotation,
                mirrored=(orientation.flip_x != orientation.flip_y) != orientation.transpose,
                sample_aspect=float(aspect) if aspect else 1.0,
                colour=first.colour,
                interlaced=bool(frame.interlaced_frame),
                container=container.format.name,
            )

    def _decoded(
        self, start_us: int | None, end_us: int | None, damage: list[DamagedSpan]
    ) -> Iterator[Frame]:
        """Yield frames from `start_us` on; fill `damage` on the way."""
        for margin_s in _SEEK_MARGINS_S:
            with self._open() as (container, stream):
                found: list[DamagedSpan] = []
                loop = self._loop(container, stream, found)
                from_beginning = start_us is None or margin_s == math.inf
                if start_us is not None and not from_beginning:
                    target = start_us / MICROSECONDS - margin_s
                    try:
                        ticks = math.floor(target / _time_base(stream))
                        container.seek(ticks, stream=stream)
                    except (av.error.FFmpegError, OverflowError):
                        continue
                frames = deinterlaced(loop.frames(end_us, after_seek=not from_beginning))
                before: Frame | None = None
                first: Frame | None = None
                for first in frames:
                    if start_us is None or first.pts_us >= start_us:
                        break
                    before, first = first, None
                if not from_beginning and not _is_sound(loop, start_us, before, first):
                    continue
                if first is not None:
                    yield first
                for frame in frames:
                    damage[:] = found
                    yield frame
                damage[:] = [
                    span
                    for span in found
                    if start_us is None or span.end_s * MICROSECONDS > start_us
                ]
                if loop.reached_end and (cut_off := self._cut_off(loop)):
                    # Damage at the very end is due to the truncation.
                    damage[:] = [span for span in damage if span.end_s <= cut_off.start_s]
                    damage.append(cut_off)
                return

    def _loop(
        self,
        container: av.container.InputContainer,
        stream: av.VideoStream,
        damage: list[DamagedSpan],
    ) -> PacketLoop:
        return PacketLoop(container, stream, self._limits, damage)

    def _cut_off(self, loop: PacketLoop) -> DamagedSpan | None:
        """Return the span that the container declares but does not hold."""
        declared = self.info.duration_s
        if declared is None or not self._is_short:
            return None
        end_s = loop.end_us / MICROSECONDS
        promised_s = self.info.start_us / MICROSECONDS + declared
        if promised_s - end_s < 1.5 * loop.frame_us / MICROSECONDS:
            return None
        return DamagedSpan(end_s, promised_s, "truncated", "the file ends before its video does")

    def _nothing_decoded(self, loop: PacketLoop) -> DecodeError:
        width, height = declared_size(self._source, self._limits)
        if width * height > self._limits.max_pixels:
            return DecodeError("too_large", f"frames of {width}×{height} pixels")
        detail = f"a video stream from which no frame decodes: {loop.last_error or 'no data'}"
        return DecodeError("truncated" if self._is_short else "no_frames", detail)

    @cached_property
    def _is_short(self) -> bool:
        stream = open_bytes(self._source)
        try:
            head = stream.read(256)
            family = container_family(head)
            return family is not None and missing_bytes(stream, family)
        finally:
            if stream is not self._source:
                stream.close()

    @contextlib.contextmanager
    def _open(self) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
        container, behind = open_container(self._source, self._limits)
        try:
            yield container, _video_stream(container, self._limits)
        finally:
            container.close()
            if behind is not None and behind is not self._source:
                behind.close()


def _is_sound(
    loop: PacketLoop, start_us: int | None, before: Frame | None, first: Frame | None
) -> bool:
    """Return whether a seek landed early enough for the frames at `start_us` to be complete.

    There must be a frame at or before it; and where the first group did not decode completely (in
    open groups its references lie in the one before), a later group must hold `start_us`.
    """
    assert start_us is not None
    if before is None and (first is None or first.pts_us > start_us):
        return False
    if not loop.first_group_broken:
        return True
    return loop.second_key_us is not None and loop.second_key_us <= start_us


def _time_base(stream: av.VideoStream) -> Fraction:
    return stream.time_base or Fraction(1, 1000)


def _video_stream(container: av.container.InputContainer, limits: DecodeLimits) -> av.VideoStream:
    """Return the stream that a player would show, and discard the others."""
    candidates = [
        stream
        for stream in container.streams.video
        if not stream.disposition & av.stream.Disposition.attached_pic
    ]
    if not candidates:
        raise DecodeError(
            "no_video_stream", f"a {container.format.name} file without a video stream"
        )
    chosen = next(
        (s for s in candidates if s.disposition & av.stream.Disposition.default), candidates[0]
    )
    if chosen.codec_context is None:
        raise DecodeError("unsupported", "no decoder for this video codec")
    pixels = chosen.codec_context.width * chosen.codec_context.height
    if pixels > limits.max_pixels:
        size = f"{chosen.codec_context.width}×{chosen.codec_context.height}"
        raise DecodeError("too_large", f"frames of {size} pixels")
    for stream in container.streams:
        if stream is not chosen and stream.index != chosen.index:
            stream.discard = av.stream.Discard.all
    return chosen
