"""Videos whose every frame carries its number, in many codecs, clocks, shapes and containers.

The number is a row of black and white cells across the top, with a fixed dark-to-light pattern
down the left side; a picture that is turned, mirrored, shifted or another frame cannot pass for
the right one.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

BITS = 8
WIDTH, HEIGHT = 128, 80
FRAMES = 40


@dataclass(frozen=True)
class MarkedVideo:
    path: Path
    # True time of each frame that a player shows, in microseconds.
    times_us: list[int]
    # The number burnt into each of them.
    numbers: list[int] = field(default_factory=lambda: list(range(FRAMES)))
    # Displayed (width, height).
    size: tuple[int, int] = (WIDTH, HEIGHT)


def marked_picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Draw RGB uint8 [height, width, 3] with `number` in it."""
    picture = np.full((height, width, 3), 128, dtype=np.uint8)
    rows = np.arange(height)[:, None, None]
    # Left side: darker below, so that up and down differ; nothing alike on the right.
    picture[:, : width // 4] = np.clip(220 - rows * 160 // height, 0, 255)
    picture[height // 2 :, width * 3 // 4 :, 0] = 200
    for bit in range(BITS):
        value = 235 if number >> bit & 1 else 20
        left, right = bit * width // BITS, (bit + 1) * width // BITS
        picture[: height // 4, left:right] = value
    return picture


def read_number(picture: np.ndarray) -> int:
    """Read the number from RGB [H, W, 3] of any size; -1 where unreadable or not upright."""
    height, width = picture.shape[:2]
    gray = picture.astype(np.float64).mean(axis=2)
    number = 0
    for bit in range(BITS):
        centre = int((bit + 0.5) * width / BITS)
        cell = gray[height // 16 : height * 3 // 16, max(0, centre - 2) : centre + 2].mean()
        if 90 < cell < 165:
            return -1
        number |= int(cell > 128) << bit
    left = gray[:, : width // 8]
    is_upright = left[height * 3 // 8 : height // 2].mean() > left[height * 7 // 8 :].mean() + 25
    patch = picture[height * 3 // 4, width * 7 // 8].astype(int)
    return number if is_upright and patch[0] > patch[2] + 25 else -1


def write(
    path: Path,
    pictures: list[np.ndarray],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rate: Fraction = Fraction(25),
    time_base: Fraction | None = None,
    ticks: list[int] | None = None,
    options: dict[str, str] | None = None,
    rotation: int = 0,
    aspect: Fraction | None = None,
    tags: tuple[int, int, int, int] | None = None,
    container: dict[str, str] | None = None,
    container_format: str | None = None,
) -> None:
    """Encode; `tags` are (matrix, range, transfer, primaries) numbers, `rotation` clockwise."""
    with av.open(str(path), "w", format=container_format, options=container or {}) as output:
        stream: Any = output.add_stream(codec, rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.thread_count = 1
        if time_base is not None:
            stream.codec_context.time_base = time_base
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if tags is not None:
            context = stream.codec_context
            context.colorspace, context.color_range = tags[0], tags[1]
            context.color_trc, context.color_primaries = tags[2], tags[3]
        if rotation:
            stream.set_display_rotation(-rotation)
        stream.options = options or {}
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = ticks[number] if ticks else number
            frame.time_base = time_base or 1 / rate
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def _pictures(width: int = WIDTH, height: int = HEIGHT, count: int = FRAMES) -> list[np.ndarray]:
    return [marked_picture(number, width, height) for number in range(count)]


def _steady(count: int = FRAMES, rate: Fraction = Fraction(25), first_us: int = 0) -> list[int]:
    return [first_us + round(number * 1_000_000 / rate) for number in range(count)]


_X264 = {"preset": "ultrafast", "crf": "12", "g": "10", "bf": "0"}


def _simple(name: str, **settings: Any) -> Callable[[Path], MarkedVideo]:
    def make(folder: Path) -> MarkedVideo:
        path = folder / name
        settings.setdefault("options", _X264)
        write(path, _pictures(), **settings)
        return MarkedVideo(path, _steady(rate=settings.get("rate", Fraction(25))))

    return make


def _rotated(degrees: int) -> Callable[[Path], MarkedVideo]:
    def make(folder: Path) -> MarkedVideo:
        path = folder / f"rotated{degrees}.mp4"
        # np.rot90 turns counter-clockwise: the tag's clockwise turn sets the picture upright again.
        coded = [np.rot90(picture, degrees // 90) for picture in _pictures()]
        write(path, coded, rotation=degrees, options=_X264)
        return MarkedVideo(path, _steady())

    return make


def _variable_rate(folder: Path) -> MarkedVideo:
    path = folder / "vfr.mp4"
    steps = np.random.default_rng(7).choice([20, 33, 40, 67, 150], FRAMES)
    milliseconds = [0, *np.cumsum(steps)[:-1].tolist()]
    write(
        path,
        _pictures(),
        time_base=Fraction(1, 1000),
        ticks=milliseconds,
        options=_X264 | {"bf": "2", "b-pyramid": "none"},
    )
    return MarkedVideo(path, [value * 1000 for value in milliseconds])


def _stretched(folder: Path) -> MarkedVideo:
    path = folder / "anamorphic.mp4"
    write(path, _pictures(96, 80), aspect=Fraction(4, 3), options=_X264)
    return MarkedVideo(path, _steady(), size=(128, 80))


def _cut_without_encoding(folder: Path) -> MarkedVideo:
    """Stream copy from frame 13: the file holds frames from the key frame 10 and hides 10 to 12."""
    whole, path = folder / "whole.mp4", folder / "cut.mp4"
    write(whole, _pictures(), options=_X264 | {"bf": "2"})
    cut_at = 13
    with av.open(str(whole)) as source, av.open(str(path), "w") as output:
        stream = source.streams.video[0]
        copy = output.add_stream_from_template(stream)
        step = round(1 / (25 * stream.time_base))
        for packet in source.demux(stream):
            if packet.size == 0 or packet.pts < 10 * step:
                continue
            packet.pts -= cut_at * step
            packet.dts -= cut_at * step
            packet.stream = copy
            output.mux(packet)
    return MarkedVideo(path, _steady(FRAMES - cut_at), list(range(cut_at, FRAMES)))


def _negative_times(folder: Path) -> MarkedVideo:
    """Composition offsets below zero and no edit list: the first frames lie before time zero."""
    path = folder / "negative.mp4"
    write(path, _pictures(), options=_X264 | {"bf": "2"})
    data = bytearray(path.read_bytes())
    edits, offsets = data.index(b"edts"), data.index(b"ctts")
    data[edits : edits + 4] = b"free"
    data[offsets + 4] = 1  # the version with signed offsets
    (count,) = struct.unpack_from(">I", data, offsets + 8)
    scale = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)[0]
    (first,) = struct.unpack_from(">I", data, offsets + 16)
    for entry in range(count):
        place = offsets + 16 + 8 * entry
        (offset,) = struct.unpack_from(">I", data, place)
        struct.pack_into(">i", data, place, offset - first - scale * 15 // 25)
    path.write_bytes(data)
    return MarkedVideo(path, _steady(first_us=-600_000))


def _late_start(folder: Path) -> MarkedVideo:
    path = folder / "late.mkv"
    write(path, _pictures(), ticks=[number + 250 for number in range(FRAMES)], options=_X264)
    return MarkedVideo(path, _steady(first_us=10_000_000))


def _odd_size(folder: Path) -> MarkedVideo:
    path = folder / "odd.webm"
    write(
        path, _pictures(129, 81), codec="libvpx-vp9", options={"crf": "10", "b:v": "0", "g": "10"}
    )
    return MarkedVideo(path, _steady(), size=(129, 81))


def _open_gop(folder: Path) -> MarkedVideo:
    path = folder / "open_gop.mp4"
    params = "keyint=10:min-keyint=10:scenecut=0:open-gop=1:bframes=3:b-adapt=0"
    write(path, _pictures(), options={"crf": "12", "x264-params": params})
    return MarkedVideo(path, _steady())


KINDS: dict[str, Callable[[Path], MarkedVideo]] = {
    "h264": _simple("plain.mp4"),
    "h264 with B-frames": _simple("b.mp4", options=_X264 | {"bf": "3", "g": "20"}),
    "h264 open GOP": _open_gop,
    "h264 at 29.97": _simple("ntsc.mp4", rate=Fraction(30000, 1001)),
    "h264 in Matroska": _simple("plain.mkv"),
    "h264 in MPEG-TS": _simple("plain.ts"),
    "h264 fragmented": _simple("parts.mp4", container={"movflags": "frag_keyframe+empty_moov"}),
    "HEVC": _simple(
        "hevc.mp4", codec="libx265", options={"crf": "12", "x265-params": "log-level=0"}
    ),
    "VP9": _simple("vp9.webm", codec="libvpx-vp9", options={"crf": "10", "b:v": "0", "g": "10"}),
    "AV1": _simple("av1.mp4", codec="libsvtav1", options={"crf": "12", "preset": "12", "g": "10"}),
    "VP8": _simple("vp8.webm", codec="libvpx", options={"crf": "10", "b:v": "1M", "g": "10"}),
    "MPEG-4 in AVI": _simple("xvid.avi", codec="mpeg4", options={"q": "2", "g": "10"}),
    "Motion JPEG": _simple("mjpeg.mov", codec="mjpeg", pix_fmt="yuvj420p", options={"q": "2"}),
    "ProRes": _simple("prores.mov", codec="prores_ks", pix_fmt="yuv422p10le", options={}),
    "10 bit": _simple(
        "deep.mp4", codec="libx265", pix_fmt="yuv420p10le", options={"x265-params": "log-level=0"}
    ),
    "HDR PQ": _simple(
        "hdr.mp4",
        codec="libx265",
        pix_fmt="yuv420p10le",
        tags=(9, 1, 16, 9),
        options={"x265-params": "log-level=0"},
    ),
    "variable rate": _variable_rate,
    "rotated 90": _rotated(90),
    "rotated 180": _rotated(180),
    "rotated 270": _rotated(270),
    "pixels 4:3": _stretched,
    "stream-copied cut": _cut_without_encoding,
    "negative times": _negative_times,
    "late start": _late_start,
    "odd size": _odd_size,
}
