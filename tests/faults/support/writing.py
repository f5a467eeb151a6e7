"""Encodes pictures for the corpus, and says what was made."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

FPS = 25
# Frames of a file that is kept whole: long enough for one clip.
SHORT = 60
# Frames of a file that is partly damaged, and its group of pictures.
LONG, GROUP = 150, 10


@dataclass(frozen=True)
class Made:
    path: Path
    outcome: Any
    reasons: Sequence[str] = ()
    clean: Sequence[tuple[float, float]] = ()
    frames: int | None = None


def healthy(path: Path, frames: int = SHORT, seconds: float | None = None) -> Made:
    return Made(path, "healthy", clean=[(0.0, seconds or frames / FPS)], frames=frames)


def quarantined(path: Path, *reasons: str) -> Made:
    return Made(path, "quarantined", reasons)


def encode(
    path: Path,
    pictures: Sequence[np.ndarray],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rate: Fraction = Fraction(FPS),
    time_base: Fraction | None = None,
    ticks: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    rotation: int = 0,
    aspect: Fraction | None = None,
    tags: tuple[int, int, int, int] | None = None,
    container: dict[str, str] | None = None,
    container_format: str | None = None,
    sound_s: float = 0.0,
) -> Path:
    """Write a video; `tags` are matrix, range, transfer, primaries; `sound_s` adds a tone."""
    settings = {"fflags": "+bitexact"} | (container or {})
    name = str(path) if container_format is None else f"file:{path}"
    with av.open(name, "w", format=container_format, options=settings) as output:
        stream: Any = output.add_stream(codec, rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pix_fmt
        context = stream.codec_context
        context.thread_count = 1
        if time_base is not None:
            context.time_base = time_base
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        if tags is not None:
            context.colorspace, context.color_range = tags[0], tags[1]
            context.color_trc, context.color_primaries = tags[2], tags[3]
        if rotation:
            stream.set_display_rotation(-rotation)
        stream.options = _usual(codec) | (options or {})
        sound = output.add_stream("aac", rate=16000, layout="mono") if sound_s else None
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = number if ticks is None else ticks[number]
            frame.time_base = time_base or 1 / rate
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if sound is not None:
            for packet in tone(sound, sound_s):
                output.mux(packet)
    return path


def tone(stream: Any, seconds: float) -> list[Any]:
    """Encode a quiet tone."""
    packets = []
    for start in range(0, int(seconds * 16000), 1024):
        wave = 0.1 * np.sin(np.arange(start, start + 1024) * 0.17)
        frame = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None], "fltp", "mono")
        frame.sample_rate, frame.pts = 16000, start
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def _usual(codec: str) -> dict[str, str]:
    return {
        "libx264": {"preset": "ultrafast", "crf": "20", "g": str(GROUP), "bf": "0"},
        "libx265": {"preset": "ultrafast", "crf": "20", "x265-params": "log-level=none:keyint=10"},
        "libvpx-vp9": {"cpu-used": "8", "deadline": "realtime", "crf": "20", "b:v": "0", "g": "10"},
        "libvpx": {"cpu-used": "8", "deadline": "realtime", "b:v": "1M", "g": "10"},
        "libsvtav1": {"preset": "12", "crf": "25", "g": "10"},
    }.get(codec, {"g": str(GROUP), "q": "3"})
