"""Gives an animated clip the sound of its driver."""

import heapq
import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import av.error
from av.container import InputContainer

from preprocessing.encode.mp4_layout import index_first

# What players take from an MP4 without a second thought; anything else is encoded to AAC.
_COPIED = {"aac", "mp3", "ac3"}


def add_sound(mp4: bytes, source: Path, start_s: float, seconds: float) -> tuple[bytes, str]:
    """Return the MP4 with the source's sound, and what became of it.

    Args:
        mp4: A clip without sound.
        source: File whose first sound track is taken.
        start_s: Time in the source at which the clip starts.
        seconds: Length of the clip; later sound is dropped.

    Returns:
        The clip, and "copied", "encoded", "none" where the source is silent, or "lost: ..." with
        the reason where its sound cannot be read: a picture without sound is better than neither.
    """
    try:
        with av.open(str(source)) as sound:
            if not sound.streams.audio:
                return mp4, "none"
            copies = sound.streams.audio[0].codec_context.name in _COPIED
            return _mux(mp4, sound, copies, start_s, seconds), "copied" if copies else "encoded"
    except (av.error.FFmpegError, OSError, ValueError) as error:
        return mp4, f"lost: {error}"


def _mux(mp4: bytes, sound: InputContainer, copies: bool, start_s: float, seconds: float) -> bytes:
    buffer = io.BytesIO()
    with (
        av.open(io.BytesIO(mp4), "r") as picture,
        av.open(buffer, "w", format="mp4", container_options={"fflags": "+bitexact"}) as out,
    ):
        video = out.add_stream_from_template(picture.streams.video[0])
        track = sound.streams.audio[0]
        if copies:
            audio = out.add_stream_from_template(track)
            packets = _copied(sound, start_s, seconds)
        else:
            audio = out.add_stream("aac", rate=track.codec_context.sample_rate)
            packets = _encoded(sound, audio, start_s, seconds)
        both = heapq.merge(
            ((_time(p), 0, p) for p in picture.demux(video=0) if p.dts is not None),
            ((_time(p), 1, p) for p in packets),
            key=lambda item: item[:2],
        )
        for _, kind, packet in both:
            packet.stream = audio if kind else video
            out.mux(packet)
    return index_first(buffer.getvalue())


def _time(packet: av.Packet) -> Fraction:
    assert packet.dts is not None
    return packet.dts * Fraction(packet.time_base or 1)


def _copied(sound: InputContainer, start_s: float, seconds: float) -> Iterator[av.Packet]:
    for packet in sound.demux(audio=0):
        if packet.dts is None or packet.pts is None or packet.time_base is None:
            continue
        moment = float(packet.pts * packet.time_base) - start_s
        if moment >= seconds:
            return
        if moment >= 0:
            shift = round(start_s / packet.time_base)
            packet.pts -= shift
            packet.dts -= shift
            yield packet


def _encoded(
    sound: InputContainer, audio: av.AudioStream, start_s: float, seconds: float
) -> Iterator[av.Packet]:
    resampler = av.AudioResampler(
        format="fltp",
        layout="stereo" if sound.streams.audio[0].codec_context.channels > 1 else "mono",
        rate=audio.codec_context.sample_rate,
    )
    position: int | None = None
    for frame in sound.decode(audio=0):
        if frame.time is None or frame.time < start_s:
            continue
        if frame.time - start_s >= seconds:
            break
        for piece in resampler.resample(frame):
            if position is None:
                position = round((frame.time - start_s) * piece.sample_rate)
            piece.pts, piece.time_base = position, Fraction(1, piece.sample_rate)
            position += piece.samples
            yield from audio.encode(piece)
    yield from audio.encode(None)
