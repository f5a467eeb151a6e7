"""Copy the audio of a driving video into an animated clip."""

import heapq
import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
from av.container import InputContainer

from preprocessing.encode.mp4_layout import index_first

# Codecs that players accept in an MP4; any other is encoded to AAC.
_COPIED = {"aac", "mp3", "ac3"}


def add_audio(mp4: bytes, source: Path, start_s: float, seconds: float) -> tuple[bytes, str]:
    """Return the MP4 with the source's audio, and how it was added.

    Args:
        mp4: A clip without audio.
        source: File whose first audio track is used.
        start_s: Time in the source at which the clip starts.
        seconds: Length of the clip; later audio is dropped.

    Returns:
        The clip, and "copied", "encoded", "none" where the source has no audio, or "lost: ..." with
        the reason where its audio cannot be read: a video without audio is better than none.
    """
    try:
        with av.open(str(source)) as container:
            if not container.streams.audio:
                return mp4, "none"
            copied = container.streams.audio[0].codec_context.name in _COPIED
            mp4 = _mux(mp4, container, copied, start_s, seconds)
            return mp4, "copied" if copied else "encoded"
    except (av.error.FFmpegError, OSError, ValueError) as error:
        return mp4, f"lost: {error}"


def _mux(mp4: bytes, source: InputContainer, copied: bool, start_s: float, seconds: float) -> bytes:
    buffer = io.BytesIO()
    with (
        av.open(io.BytesIO(mp4), "r") as silent,
        av.open(buffer, "w", format="mp4", container_options={"fflags": "+bitexact"}) as out,
    ):
        video = out.add_stream_from_template(silent.streams.video[0])
        track = source.streams.audio[0]
        if copied:
            audio = out.add_stream_from_template(track)
            packets = _copied(source, start_s, seconds)
        else:
            audio = out.add_stream("aac", rate=track.codec_context.sample_rate)
            packets = _encoded(source, audio, start_s, seconds)
        both: Iterator[tuple[Fraction, int, Any]] = heapq.merge(
            ((_time(p), 0, p) for p in silent.demux(video=0) if p.dts is not None),
            ((_time(p), 1, p) for p in packets),
            key=lambda item: item[:2],
        )
        for _, kind, packet in both:
            packet.stream = audio if kind else video
            out.mux(packet)
    return index_first(buffer.getvalue())


def _time(packet: "av.Packet[Any]") -> Fraction:
    assert packet.dts is not None
    return packet.dts * Fraction(packet.time_base or 1)


def _copied(
    source: InputContainer, start_s: float, seconds: float
) -> "Iterator[av.Packet[av.AudioStream]]":
    for packet in source.demux(audio=0):
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
    source: InputContainer, audio: av.AudioStream, start_s: float, seconds: float
) -> "Iterator[av.Packet[av.AudioStream]]":
    resampler = av.AudioResampler(
        format="fltp",
        layout="stereo" if source.streams.audio[0].codec_context.channels > 1 else "mono",
        rate=audio.codec_context.sample_rate,
    )
    position: int | None = None
    for frame in source.decode(audio=0):
        if frame.time is None or frame.time < start_s:
            continue
        if frame.time - start_s >= seconds:
            break
        for chunk in resampler.resample(frame):
            if position is None:
                position = round((frame.time - start_s) * chunk.sample_rate)
            chunk.pts, chunk.time_base = position, Fraction(1, chunk.sample_rate)
            position += chunk.samples
            yield from audio.encode(chunk)
    yield from audio.encode(None)
