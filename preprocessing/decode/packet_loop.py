"""The loop from packets to frames that survives damage and tells what was lost."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import av.error

from preprocessing.decode.failure import DamagedSpan, Reason
from preprocessing.decode.frame import Frame
from preprocessing.decode.limits import DecodeLimits
from preprocessing.decode.orientation import Orientation, orientation_of
from preprocessing.decode.timeline import MICROSECONDS, to_us

# A clock that goes back further than this has been restarted (joined recordings), not jittered.
_CLOCK_RESTART_US = MICROSECONDS
# A frame's length where nothing tells it: 25 frames per second.
_USUAL_FRAME_US = 40_000


class PacketLoop:
    """Decodes one stream of an open container from where it stands to its end.

    A frame that depends on damaged data is not clean, so after an error everything up to the next
    key frame is left out, unless the broken packet is one nothing else refers to. Time stamps
    come out strictly increasing: absent and repeated ones are mended, restarted clocks carry on.
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
        # End of the last clean frame in microseconds.
        self.end_us = 0
        # True once the container has no more packets.
        self.reached_end = False
        # What the last error said, for a person.
        self.last_error = ""
        self._last_pts_us: int | None = None
        self._clock_shift_us = 0
        self._broken_since_us: int | None = None
        self._broken_by: Reason = "corrupt"
        self._last_packet_us: int | None = None
        self._first_packet_us: int | None = None
        self._orientations: dict[bytes | None, Orientation] = {}
        codec = stream.codec_context
        codec.thread_count = 1
        # "explode": tell of damage instead of painting over it.
        codec.options = {"err_detect": "explode", "max_pixels": str(limits.max_pixels)}

    def packets(self) -> Iterator[av.Packet]:
        """Yield the stream's packets, without those the container cannot read."""
        for item in self._read():
            if isinstance(item, av.Packet):
                yield item

    def frames(self, end_us: int | None) -> Iterator[Frame]:
        """Yield clean frames, `index` not yet set; stop early in damage that outlasts `end_us`."""
        codec = self._stream.codec_context
        waiting_for_key = False
        resume_from: int | None = None
        for item in self._read():
            if not isinstance(item, av.Packet):
                yield from self._stamped(self._drain(), resume_from)
                self._break(item)
                waiting_for_key = True
                continue
            packet = item
            if packet.size == 0:
                yield from self._stamped(self._drain(), resume_from)
                continue
            self._note(packet)
            if waiting_for_key:
                if not packet.is_keyframe:
                    if end_us is not None and (self._last_packet_us or 0) > end_us:
                        break
                    continue
                waiting_for_key, resume_from = False, packet.pts
            try:
                pictures = codec.decode(packet)
            except (av.error.FFmpegError, MemoryError, ValueError) as error:
                if not packet.is_disposable:
                    yield from self._stamped(self._drain(), resume_from)
                    waiting_for_key = True
                self._break(error)
                continue
            if any(picture.is_corrupt for picture in pictures):
                pictures = [picture for picture in pictures if not picture.is_corrupt]
                self._break(ValueError("the decoder marks frames as corrupt"))
            yield from self._stamped(pictures, resume_from)
        if self._broken_since_us is not None:
            end = (self._last_packet_us or self._broken_since_us) + self.frame_us
            self._mend(max(end, self._broken_since_us))

    def _read(self) -> Iterator[av.Packet | Exception]:
        """Yield packets or the container's errors; give up after too many in a row."""
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
            yield packet

    def _note(self, packet: av.Packet) -> None:
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is None or packet.is_discard:
            return
        time_us = to_us(stamp, self._time_base) + self._clock_shift_us
        self._last_packet_us = max(time_us, self._last_packet_us or time_us)
        if self._first_packet_us is None:
            self._first_packet_us = time_us
            self.end_us = time_us

    def _drain(self) -> list[av.VideoFrame]:
        """Take out frames held back for reordering and leave the decoder reset."""
        codec = self._stream.codec_context
        try:
            return list(codec.decode(None))
        except (av.error.FFmpegError, MemoryError, ValueError) as error:
            self.last_error = str(error)
            return []
        finally:
            codec.flush_buffers()

    def _break(self, error: Exception) -> None:
        self.last_error = getattr(error, "strerror", None) or str(error)
        if self._broken_since_us is None:
            self._broken_since_us = self.end_us
            unsupported = isinstance(error, (av.error.PatchWelcomeError, NotImplementedError))
            self._broken_by = "unsupported" if unsupported else "corrupt"

    def _mend(self, end_us: int) -> None:
        if self._broken_since_us is None:
            return
        if end_us > self._broken_since_us:
            start_s, end_s = self._broken_since_us / MICROSECONDS, end_us / MICROSECONDS
            self._damage.append(DamagedSpan(start_s, end_s, self._broken_by, self.last_error))
        self._broken_since_us = None

    def _stamped(self, pictures: list[av.VideoFrame], resume_from: int | None) -> Iterator[Frame]:
        """Give pictures their time and orientation; close the damage they end."""
        for picture in pictures:
            if resume_from is not None and picture.pts is not None and picture.pts < resume_from:
                # Shown before the key frame we resumed at: it leans on what was lost.
                continue
            pts_us = self._time_of(picture)
            late = self._first_packet_us is not None and self._last_pts_us is None
            if late and pts_us - self.end_us > self.frame_us * 3 // 2:
                self._break(ValueError("the stream starts between key frames"))
            self._mend(pts_us)
            self._last_pts_us = pts_us
            length = to_us(picture.duration, self._time_base) if picture.duration else 0
            self.end_us = pts_us + (length if 0 < length < MICROSECONDS else self.frame_us)
            yield Frame(
                picture,
                pts_us=pts_us,
                index=0,
                orientation=self._orientation(picture),
                key_frame=bool(picture.key_frame),
            )

    def _time_of(self, picture: av.VideoFrame) -> int:
        last = self._last_pts_us
        stamp = picture.pts if picture.pts is not None else picture.dts
        if stamp is None:
            return 0 if last is None else last + self.frame_us
        pts_us = to_us(stamp, self._time_base) + self._clock_shift_us
        if last is None or pts_us > last:
            return pts_us
        if last - pts_us > _CLOCK_RESTART_US:
            self._clock_shift_us += last + self.frame_us - pts_us
            return last + self.frame_us
        return last + 1

    def _orientation(self, picture: av.VideoFrame) -> Orientation:
        side_data: Any = picture.side_data.get("DISPLAYMATRIX")
        matrix = None if side_data is None else bytes(side_data)
        if matrix not in self._orientations:
            aspect = self._stream.sample_aspect_ratio or None
            self._orientations[matrix] = orientation_of(matrix, aspect)
        return self._orientations[matrix]
