"""Decodes packets to frames through damage and reports what was lost."""

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import av.error

from preprocessing.decode.failure import DamagedSpan, Reason
from preprocessing.decode.frame import Frame
from preprocessing.decode.pixels.orientation import Orientation, orientation_of
from preprocessing.decode.source import DecodeLimits
from preprocessing.decode.timeline import MICROSECONDS, to_us
from preprocessing.heartbeat import heartbeat

if TYPE_CHECKING:
    from preprocessing.decode.timeline import Packet

# A time stamp that goes back further is a restarted clock (joined recordings), not jitter.
_CLOCK_RESTART_US = MICROSECONDS
# Duration of a frame where the stream has no rate: 25 frames per second.
_USUAL_FRAME_US = 40_000
# More packets than any codec reorders.
_MOST_HELD_BACK = 256


def _is_before(pts: int | None, key_pts: int | None) -> bool:
    return pts is not None and key_pts is not None and pts < key_pts


class PacketLoop:
    """Decodes one stream of an open container from where it stands to its end.

    Frames that depend on damaged data are left out: after an error, everything up to the next key
    frame, unless no other packet refers to the broken one. Time stamps come out strictly
    increasing: missing and repeated ones are replaced, restarted clocks are continued.
    """

    def __init__(
        self,
        container: av.container.InputContainer,
        stream: av.VideoStream,
        limits: DecodeLimits,
        damage: list[DamagedSpan] | None = None,
    ) -> None:
        self._container, self._stream, self._limits = container, stream, limits
        self._damage = [] if damage is None else damage
        self._time_base = stream.time_base or Fraction(1, 1000)
        rate = stream.average_rate or stream.guessed_rate
        # Nominal length of a frame in microseconds.
        self.frame_us = (
            round(MICROSECONDS / rate) if rate and 1 <= rate <= 1000 else _USUAL_FRAME_US
        )
        # Longest distance of reordering; a time beyond it is broken.
        self._reach_us = _MOST_HELD_BACK * self.frame_us
        # End of the last clean frame in microseconds.
        self.end_us = 0
        # Whether the container has no more packets.
        self.reached_end = False
        # Whether the first group of pictures did not decode completely.
        self.first_group_broken = False
        # Time of the second key frame, once it has been read.
        self.second_key_us: int | None = None
        # Text of the last error.
        self.last_error = ""
        self._last_pts_us: int | None = None
        self._clock_shift_us = 0
        self._is_dirty = False
        # Packets fed and not yet shown, by pts: whether all data they depend on was intact.
        self._is_clean: dict[int | None, bool] = {}
        self._broken_since_us: int | None = None
        # Time of the latest lost frame.
        self._lost_us: int | None = None
        self._broken_by: Reason = "corrupt"
        self._last_packet_us: int | None = None
        self._first_packet_us: int | None = None
        self._orientations: dict[int, Orientation] = {}
        codec = stream.codec_context
        codec.thread_count = 1
        # "explode": report damage instead of concealing it.
        codec.options = {"err_detect": "explode", "max_pixels": str(limits.max_pixels)}

    def packets(self) -> "Iterator[Packet]":
        """Yield the stream's readable packets."""
        for item in self._read():
            if isinstance(item, av.Packet):
                yield item

    def frames(self, end_us: int | None, *, after_seek: bool = False) -> Iterator[Frame]:
        """Yield clean frames, `index` not yet set; stop early in damage that outlasts `end_us`.

        The decoder is never reset: without its references it would also reject the next open
        group. Each frame is clean or not by the packet it came from.
        """
        # True while packets depend on lost data; a key frame ends that.
        self._is_dirty = after_seek
        resumed_at: int | None = None
        key_pts: int | None = None
        for item in self._read():
            if not isinstance(item, av.Packet):
                self._record_damage(item, self._last_packet_us)
                self._is_dirty = True
                continue
            packet = item
            self._track_time(packet)
            if packet.is_keyframe:
                if key_pts is not None and self.second_key_us is None and packet.pts is not None:
                    self.second_key_us = to_us(packet.pts, self._time_base)
                key_pts = packet.pts
                if self._is_dirty:
                    self._is_dirty, resumed_at = False, key_pts
            is_leading = _is_before(packet.pts, key_pts)
            # Shown before the key frame that decoding resumed at: it depends on lost data.
            is_orphan = is_leading and resumed_at == key_pts
            if packet.pts is not None:
                self._is_clean[packet.pts] = not (self._is_dirty or is_orphan)
            decoded = self._decode(packet)
            if decoded is None:
                # No frame refers to a disposable one, nor, after a key frame, to one before it.
                if not (packet.is_disposable or is_leading):
                    self._is_dirty = True
                self._is_clean[packet.pts] = False
                decoded = []
            yield from self._stamped(decoded)
            if self._is_dirty and end_us is not None and (self._last_packet_us or 0) > end_us:
                break
        if self._broken_since_us is not None:
            end = (self._last_packet_us or self._broken_since_us) + self.frame_us
            self._end_damage(max(end, self._broken_since_us))

    def _decode(self, packet: "Packet") -> list[av.VideoFrame] | None:
        """Return the frames that the decoder outputs for a packet, or None where it is damaged."""
        codec = self._stream.codec_context
        try:
            return list(codec.decode(packet if packet.size else None))
        except (av.error.FFmpegError, MemoryError, ValueError) as error:
            self._record_damage(error, self._shown_at(packet))
            return None

    def _read(self) -> "Iterator[Packet | Exception]":
        """Yield packets or the container's errors; stop after too many in a row."""
        errors = 0
        demux = self._container.demux(self._stream)
        while True:
            try:
                packet = next(demux)
            except StopIteration:
                self.reached_end = True
                return
            except (av.error.FFmpegError, OSError, ValueError) as error:
                errors += 1
                if errors > self._limits.max_errors_in_a_row:
                    self.reached_end = True
                    return
                if errors == 1:
                    yield error
                demux = self._container.demux(self._stream)
                continue
            if packet.size:
                errors = 0
                heartbeat()
            yield packet

    def _track_time(self, packet: "Packet") -> None:
        time_us = self._shown_at(packet)
        if time_us is None or packet.is_discard:
            return
        self._last_packet_us = max(time_us, self._last_packet_us or time_us)
        if self._first_packet_us is None:
            self._first_packet_us = time_us
            self.end_us = time_us

    def _shown_at(self, item: "Packet | av.VideoFrame") -> int | None:
        stamp = item.pts if item.pts is not None else item.dts
        return None if stamp is None else to_us(stamp, self._time_base) + self._clock_shift_us

    def _record_damage(self, error: Exception, shown_us: int | None = None) -> None:
        """Record damage; `shown_us` is the time of the frame that it costs."""
        self.last_error = getattr(error, "strerror", None) or str(error)
        self.first_group_broken |= self.second_key_us is None
        if self._broken_since_us is None:
            unsupported = isinstance(error, (av.error.PatchWelcomeError, NotImplementedError))
            self._broken_by = "unsupported" if unsupported else "corrupt"
        self._lose(shown_us)

    def _lose(self, shown_us: int | None) -> None:
        """Record a lost frame, and with it the span since the last clean one."""
        if self._broken_since_us is None:
            self._broken_since_us = self.end_us
        if shown_us is not None:
            self._lost_us = max(shown_us, self._lost_us or shown_us)

    def _end_damage(self, end_us: int) -> None:
        if self._broken_since_us is None:
            return
        if end_us > self._broken_since_us:
            start_s, end_s = self._broken_since_us / MICROSECONDS, end_us / MICROSECONDS
            self._damage.append(DamagedSpan(start_s, end_s, self._broken_by, self.last_error))
        self._broken_since_us = None

    def _stamped(self, decoded: list[av.VideoFrame]) -> Iterator[Frame]:
        """Yield clean frames with time and orientation; end the damaged span before each."""
        for frame in decoded:
            if not self._is_clean.pop(frame.pts, not self._is_dirty):
                if self.last_error:
                    self._lose(self._shown_at(frame))
                continue
            if frame.is_corrupt:
                error = ValueError("the decoder marks the frame as corrupt")
                self._record_damage(error, self._shown_at(frame))
                self._is_dirty = True
                continue
            pts_us = self._time_of(frame)
            is_first = self._first_packet_us is not None and self._last_pts_us is None
            if is_first and pts_us - self.end_us > self.frame_us * 3 // 2:
                self._record_damage(ValueError("the stream starts between key frames"))
            self._end_damage(pts_us)
            self._last_pts_us = pts_us
            length = to_us(frame.duration, self._time_base) if frame.duration else 0
            self.end_us = pts_us + (length if 0 < length < MICROSECONDS else self.frame_us)
            if self._lost_us is not None and 0 < self._lost_us - pts_us < self._reach_us:
                # The damage comes later in time than this reordered frame.
                self._broken_since_us = self.end_us
            yield Frame(
                frame,
                pts_us=pts_us,
                index=0,
                orientation=self._orientation(frame),
                key_frame=bool(frame.key_frame),
            )
        if len(self._is_clean) > _MOST_HELD_BACK:
            # Packets that never showed a frame: drop all but the latest.
            for stale in list(self._is_clean)[: -_MOST_HELD_BACK // 2]:
                del self._is_clean[stale]

    def _time_of(self, frame: av.VideoFrame) -> int:
        last = self._last_pts_us
        stamp = frame.pts if frame.pts is not None else frame.dts
        if stamp is None:
            return 0 if last is None else last + self.frame_us
        pts_us = to_us(stamp, self._time_base) + self._clock_shift_us
        if last is None or pts_us > last:
            return pts_us
        if last - pts_us > _CLOCK_RESTART_US:
            self._clock_shift_us += last + self.frame_us - pts_us
            return last + self.frame_us
        return last + 1

    def _orientation(self, frame: av.VideoFrame) -> Orientation:
        """Return the orientation; reads the display matrix once per rotation.

        PyAV puts a frame whose side data are read into a reference cycle, which only the garbage
        collector frees: read for each frame, two hundred of them would be alive at once.
        """
        rotation = frame.rotation
        if rotation not in self._orientations:
            side_data: Any = frame.side_data.get("DISPLAYMATRIX")
            matrix = None if side_data is None else bytes(side_data)
            aspect = self._stream.sample_aspect_ratio or None
            self._orientations[rotation] = orientation_of(matrix, aspect)
        return self._orientations[rotation]
