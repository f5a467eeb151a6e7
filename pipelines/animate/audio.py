"""Copy the sound of a driving video into an animated clip."""

import heapq
import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from preprocessing.encode.mp4_layout import index_first

# Codecs that players accept in an MP4; any other is encoded to AAC.
_COPIED = {"aac", "mp3", "ac3"}

# Sampling rates of AAC; others are converted to 48 kHz.
_AAC_RATES = {8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000}

# Sound that lies further from its time than this is moved there: time stamps are rounded to
# milliseconds in some containers, and 40 ms are heard.
_DRIFT_S = 0.015

# Packets read at most to find out whether a track decodes.
_TRIAL = 300

# What FFmpeg and PyAV raise for files they do not understand.
_FAILURES = (av.error.FFmpegError, OSError, ValueError)


@dataclass(frozen=True)
class Sound:
    """The sound track of a file that will be used."""

    # The file, and the number of the track among its sound tracks; None where none decodes.
    source: Path
    track: int | None
    # Why earlier tracks, or all, are not used; "" where the file has no sound or the first decodes.
    lost: str = ""


def find_sound(source: Path) -> Sound:
    """Return the first sound track of a file that decodes; found before the long work."""
    problems: list[str] = []
    try:
        with av.open(str(source)) as container:
            count = len(container.streams.audio)
        for track in range(count):
            problem = _trial(source, track)
            if problem is None:
                return Sound(source, track, "; ".join(problems))
            problems.append(f"track {track + 1} {problem}")
    except _FAILURES as error:
        problems.append(str(error))
    return Sound(source, None, "; ".join(problems))


def add_sound(mp4: bytes, sound: Sound, start_s: float, seconds: float) -> tuple[bytes, str]:
    """Return the MP4 with the sound, and what arrived in it.

    Every sample keeps its time: holes of the source are silence.

    Args:
        mp4: A clip without sound.
        sound: Track to add.
        start_s: Time in the source at which the clip starts.
        seconds: Length of the clip; later sound is dropped.

    Returns:
        The clip, and "copied", "encoded", "none" where there is no sound, or "lost: ..." with the
        reason: a video without sound is better than none. Tracks that were passed over are named.
    """
    if sound.track is None:
        return mp4, f"lost: {sound.lost}" if sound.lost else "none"
    note = f" (lost: {sound.lost})" if sound.lost else ""
    reason = ""
    try:
        for copied in (True, False) if _is_copyable(sound) else (False,):
            try:
                made, packets = _mux(mp4, sound, copied, start_s, seconds)
            except _FAILURES as error:
                reason = str(error)
                continue
            if not packets:
                return mp4, "none in this part" + note
            return made, ("copied" if copied else "encoded") + note
    except Exception as error:  # whatever the sound is, the video must not be lost for it
        reason = str(error)
    return mp4, f"lost: {reason}{note}"


def _trial(source: Path, track: int) -> str | None:
    """Return why a track does not decode, or None if it does."""
    with av.open(str(source)) as container:
        stream = container.streams.audio[track]
        # PyAV has no context for a codec that FFmpeg does not know.
        if stream.codec_context is None:
            return "has an unknown codec"
        problem = "has no packets"
        for number, packet in enumerate(container.demux(stream)):
            try:
                if packet.decode():
                    return None
                problem = "decodes to nothing"
            except _FAILURES as error:
                problem = f"does not decode ({stream.codec_context.name}: {error})"
            if number >= _TRIAL:
                break
        return problem


def _is_copyable(sound: Sound) -> bool:
    """Whether packets can be copied: a codec of MP4, and no holes, which many players close."""
    with av.open(str(sound.source)) as container:
        stream = container.streams.audio[sound.track or 0]
        if stream.codec_context.name not in _COPIED:
            return False
        end: Fraction | None = None
        for packet in container.demux(stream):
            if packet.pts is None or not packet.duration or packet.time_base is None:
                continue
            start = packet.pts * packet.time_base
            if end is not None and abs(start - end) > _DRIFT_S:
                return False
            end = start + packet.duration * packet.time_base
    return True


def _mux(
    mp4: bytes, sound: Sound, copied: bool, start_s: float, seconds: float
) -> tuple[bytes, int]:
    """Return the clip with the sound, and the number of its packets."""
    buffer, count = io.BytesIO(), 0
    with (
        av.open(str(sound.source)) as source,
        av.open(io.BytesIO(mp4), "r") as silent,
        av.open(buffer, "w", format="mp4", container_options={"fflags": "+bitexact"}) as out,
    ):
        if comment := silent.metadata.get("comment"):
            out.metadata["comment"] = comment
        video = out.add_stream_from_template(silent.streams.video[0])
        track = source.streams.audio[sound.track or 0]
        if copied:
            audio = out.add_stream_from_template(track)
            packets = _copied(source, track, start_s, seconds)
        else:
            rate = track.codec_context.sample_rate
            audio = out.add_stream("aac", rate=rate if rate in _AAC_RATES else 48000)
            audio.layout = "stereo" if track.codec_context.channels > 1 else "mono"
            packets = _encoded(source, track, audio, start_s, seconds)
        both: Iterator[tuple[Fraction, int, Any]] = heapq.merge(
            ((_time(p), 0, p) for p in silent.demux(video=0) if p.dts is not None),
            ((_time(p), 1, p) for p in packets),
            key=lambda item: item[:2],
        )
        for _, kind, packet in both:
            packet.stream = audio if kind else video
            out.mux(packet)
            count += kind
    return index_first(buffer.getvalue()), count


def _time(packet: "av.Packet[Any]") -> Fraction:
    assert packet.dts is not None
    return packet.dts * Fraction(packet.time_base or 1)


def _copied(
    source: InputContainer, track: av.AudioStream, start_s: float, seconds: float
) -> "Iterator[av.Packet[av.AudioStream]]":
    for packet in source.demux(track):
        if packet.dts is None or packet.pts is None or packet.time_base is None:
            continue
        time_s = float(packet.pts * packet.time_base) - start_s
        if time_s >= seconds:
            return
        if time_s >= 0:
            shift = round(start_s / packet.time_base)
            packet.pts -= shift
            packet.dts -= shift
            yield packet


def _encoded(
    source: InputContainer,
    track: av.AudioStream,
    audio: av.AudioStream,
    start_s: float,
    seconds: float,
) -> "Iterator[av.Packet[av.AudioStream]]":
    rate, layout = audio.codec_context.sample_rate, audio.codec_context.layout.name
    position = 0
    for samples in _placed(source, track, rate, layout, start_s, seconds):
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, position, Fraction(1, rate)
        position += samples.shape[1]
        yield from audio.encode(frame)
    if position:
        yield from audio.encode(None)


def _placed(
    source: InputContainer,
    track: av.AudioStream,
    rate: int,
    layout: str,
    start_s: float,
    seconds: float,
) -> Iterator[NDArray[np.float32]]:
    """Yield the sound (channels, n) from `start_s` on without a hole: each sample at its time."""
    position, end = 0, round(seconds * rate)
    resampler, shape = None, None
    for frame in _decoded(source, track):
        if shape != (frame.format.name, frame.layout.name, frame.sample_rate):
            shape = (frame.format.name, frame.layout.name, frame.sample_rate)
            resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)
        assert resampler is not None
        at = position if frame.time is None else round((frame.time - start_s) * rate)
        if at >= end:
            return
        frame.pts = None
        chunks = [chunk.to_ndarray() for chunk in resampler.resample(frame)]
        for samples in chunks:
            if abs(at - position) <= _DRIFT_S * rate:
                at = position
            samples = samples[:, max(position - at, 0) : max(end - at, 0)]
            # In pieces, so that a hole of an hour needs no memory.
            while samples.shape[1] and at > position:
                size = min(at - position, rate)
                yield np.zeros((samples.shape[0], size), np.float32)
                position += size
            if samples.shape[1]:
                yield np.ascontiguousarray(samples)
                position += samples.shape[1]
            at = position


def _decoded(source: InputContainer, track: av.AudioStream) -> Iterator[av.AudioFrame]:
    """Yield the frames that decode; damaged packets leave holes."""
    for packet in source.demux(track):
        try:
            yield from packet.decode()
        except (av.error.InvalidDataError, av.error.EOFError):
            continue
