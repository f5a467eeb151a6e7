"""Files that are odd but sound: every one of their seconds must be kept."""

import os
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from footage import Footage
from mp4_surgery import TABLE, find, set_word
from writing import FPS, GROUP, SHORT, Made, encode, healthy

Kind = Callable[[Path, Footage], Made]


def _plain(name: str, **settings: object) -> Kind:
    def make(folder: Path, footage: Footage) -> Made:
        path = folder / name
        encode(path, footage(0, SHORT), **settings)  # type: ignore[arg-type]
        return healthy(path)

    return make


def _turned(degrees: int) -> Kind:
    def make(folder: Path, footage: Footage) -> Made:
        pictures = [np.rot90(picture, degrees // 90) for picture in footage(0, SHORT, 288, 256)]
        path = encode(folder / f"rotated_{degrees}.mp4", pictures, rotation=degrees)
        return healthy(path)

    return make


def _over_reported_header(folder: Path, footage: Footage) -> Made:
    """All three durations claim forty times the truth."""
    path = encode(folder / "over_reported_duration.mp4", footage(0, SHORT))
    data = path.read_bytes()
    for trail, offset in (
        ((b"moov", b"mvhd"), 24),
        ((b"moov", b"trak", b"tkhd"), 28),
        ((b"moov", b"trak", b"mdia", b"mdhd"), 24),
    ):
        place = find(data, *trail)[0] + offset
        data = set_word(data, place, struct.unpack_from(">I", data, place)[0] * 40)
    path.write_bytes(data)
    return healthy(path)


def _over_reported_count(folder: Path, footage: Footage) -> Made:
    """The time table speaks of a thousand times the frames there are."""
    path = encode(folder / "over_reported_frames.mp4", footage(0, SHORT))
    data = path.read_bytes()
    path.write_bytes(set_word(data, find(data, *TABLE, b"stts")[0] + 16, SHORT * 1000))
    return healthy(path)


def _over_reported_avi(folder: Path, footage: Footage) -> Made:
    path = encode(folder / "over_reported.avi", footage(0, SHORT), codec="mpeg4")
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"avih") + 8 + 16, SHORT * 100)
    struct.pack_into("<I", data, data.index(b"strh") + 8 + 32, SHORT * 100)
    path.write_bytes(data)
    return healthy(path)


def _variable_rate(folder: Path, footage: Footage) -> Made:
    steps = np.random.default_rng(11).choice([17, 33, 40, 50, 67, 90], SHORT)
    ticks = [0, *np.cumsum(steps)[:-1].tolist()]
    path = encode(
        folder / "variable_rate.mp4",
        footage(0, SHORT),
        time_base=Fraction(1, 1000),
        ticks=ticks,
        options={"bf": "2"},
    )
    return healthy(path, SHORT, (ticks[-1] + 40) / 1000)


def _stream_copied(folder: Path, footage: Footage) -> Made:
    """Cut out without encoding: an edit list hides the frames before the cut."""
    whole, path = folder / ".whole.mp4", folder / "stream_copied_cut.mp4"
    encode(whole, footage(0, SHORT + GROUP), options={"bf": "2"})
    hidden = GROUP - 3
    with (
        av.open(str(whole)) as source,
        av.open(str(path), "w", options={"fflags": "+bitexact"}) as output,
    ):
        stream = source.streams.video[0]
        copy = output.add_stream_from_template(stream)
        shift = round(hidden / (FPS * stream.time_base))
        for packet in source.demux(stream):
            if packet.size:
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = copy
                output.mux(packet)
    whole.unlink()
    return healthy(path, SHORT + GROUP - hidden)


def _negative_times(folder: Path, footage: Footage) -> Made:
    path = encode(folder / "negative_times.mp4", footage(0, SHORT), options={"bf": "2"})
    data = bytearray(path.read_bytes())
    edits, offsets = data.index(b"edts"), data.index(b"ctts")
    data[edits : edits + 4] = b"free"
    data[offsets + 4] = 1
    for entry in range(struct.unpack_from(">I", data, offsets + 8)[0]):
        place = offsets + 16 + 8 * entry
        struct.pack_into(">i", data, place, struct.unpack_from(">i", data, place)[0] - 12800 * 3)
    path.write_bytes(data)
    return healthy(path)


def _joined_recordings(folder: Path, footage: Footage) -> Made:
    """Two transport streams end to end: the clock starts again in the middle."""
    parts = [encode(folder / f".part{part}.ts", footage(part, SHORT)) for part in range(2)]
    path = folder / "clock_restarts.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    for part in parts:
        part.unlink()
    return healthy(path, 2 * SHORT)


def _size_changes(folder: Path, footage: Footage) -> Made:
    """The picture size changes in mid-stream."""
    parts = [
        encode(folder / f".part{part}.h264", footage(part, SHORT, side, side))
        for part, side in enumerate((256, 320))
    ]
    path = folder / "size_changes.h264"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    for part in parts:
        part.unlink()
    return healthy(path, 2 * SHORT)


def _junk_after(folder: Path, footage: Footage) -> Made:
    path = encode(folder / "junk_at_the_end.mp4", footage(0, SHORT))
    junk = np.random.default_rng(2).integers(0, 256, 50_000, dtype=np.uint8).tobytes()
    path.write_bytes(path.read_bytes() + junk)
    return healthy(path)


def _cover_and_video(folder: Path, footage: Footage) -> Made:
    """A cover picture comes first; the film is the second video stream."""
    path = folder / "cover_first.mp4"
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as output:
        cover = output.add_stream("mjpeg", rate=FPS)
        cover.width = cover.height = 64
        cover.pix_fmt = "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        film = output.add_stream("libx264", rate=FPS)
        film.width = film.height = 256
        film.pix_fmt = "yuv420p"
        film.options = {"preset": "ultrafast", "g": str(GROUP), "bf": "0"}
        film.codec_context.thread_count = 1
        still = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        still.pts = 0
        for packet in [*cover.encode(still), *cover.encode(None)]:
            output.mux(packet)
        for number, picture in enumerate(footage(0, SHORT)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            output.mux(film.encode(frame))
        output.mux(film.encode(None))
    return healthy(path)


def _named(name: str | bytes) -> Kind:
    def make(folder: Path, footage: Footage) -> Made:
        plain = encode(folder / ".plain.mp4", footage(0, SHORT))
        path = folder / (os.fsdecode(name) if isinstance(name, bytes) else name)
        plain.rename(path)
        return healthy(path)

    return make


def _linked(folder: Path, footage: Footage) -> Made:
    aside = folder / ".aside"
    aside.mkdir(exist_ok=True)
    encode(aside / "real.mp4", footage(0, SHORT))
    path = folder / "linked.mp4"
    path.unlink(missing_ok=True)
    path.symlink_to(aside / "real.mp4")
    return healthy(path)


def _fast(folder: Path, footage: Footage) -> Made:
    path = encode(folder / "sixty_a_second.mp4", footage(0, 150), rate=Fraction(60))
    return healthy(path, 150, 2.5)


def _slow(folder: Path, footage: Footage) -> Made:
    path = encode(folder / "ten_a_second.mp4", footage(0, 30), rate=Fraction(10))
    return healthy(path, 30, 3.0)


KINDS: dict[str, Kind] = {
    "plain": _plain("plain.mp4"),
    "over-reported duration": _over_reported_header,
    "over-reported frame count": _over_reported_count,
    "over-reported frame count, AVI": _over_reported_avi,
    "variable rate": _variable_rate,
    "sixty frames a second": _fast,
    "ten frames a second": _slow,
    "rotated 90": _turned(90),
    "rotated 180": _turned(180),
    "rotated 270": _turned(270),
    "pixels that are not square": _plain("anamorphic.mp4", aspect=Fraction(4, 3)),
    "stream-copied cut": _stream_copied,
    "B-frames": _plain("b_frames.mp4", options={"bf": "3", "g": "30"}),
    "open groups": _plain(
        "open_groups.mp4",
        options={"x264-params": "keyint=10:min-keyint=10:scenecut=0:open-gop=1:bframes=3"},
    ),
    "HEVC": _plain("hevc.mkv", codec="libx265"),
    "VP9": _plain("vp9.webm", codec="libvpx-vp9"),
    "VP8": _plain("vp8.webm", codec="libvpx"),
    "AV1": _plain("av1.mp4", codec="libsvtav1"),
    "MPEG-2 interlaced": _plain(
        "interlaced.ts", codec="mpeg2video", options={"flags": "+ildct+ilme", "field_order": "tt"}
    ),
    "Motion JPEG, full range": _plain("full_range.avi", codec="mjpeg", pix_fmt="yuvj420p"),
    "ten bit": _plain("ten_bit.mp4", codec="libx265", pix_fmt="yuv420p10le"),
    "HDR": _plain("hdr.mp4", codec="libx265", pix_fmt="yuv420p10le", tags=(9, 1, 16, 9)),
    "4:4:4": _plain("yuv444.mp4", pix_fmt="yuv444p"),
    "RGB inside": _plain("rgb.mkv", codec="libx264rgb", pix_fmt="rgb24", options={"g": "10"}),
    "odd size": lambda folder, footage: healthy(
        encode(folder / "odd_size.webm", footage(0, SHORT, 257, 255), codec="libvpx-vp9")
    ),
    "negative times": _negative_times,
    "late start": _plain("late_start.mkv", ticks=[1000 + number for number in range(SHORT)]),
    "clock restarts": _joined_recordings,
    "size changes": _size_changes,
    "fragmented": _plain("fragmented.mp4", container={"movflags": "frag_keyframe+empty_moov"}),
    "length unknown": _plain("live.mkv", container={"live": "1"}, container_format="matroska"),
    "sound outlasts picture": _plain("long_sound.mp4", sound_s=6.0),
    "junk at the end": _junk_after,
    "cover picture first": _cover_and_video,
    "Matroska named mp4": _plain("matroska_inside.mp4", container_format="matroska"),
    "name with spaces and quotes": _named("a 'fine' \"talk\" & more; $(x) `y` %s.mp4"),
    "name with a newline": _named("two\nlines.mp4"),
    "name with dots": _named("..up..and..away...mp4"),
    "name like an option": _named("-i --help.mp4"),
    "name like a protocol": _named("concat:a|b,subfile:c.mp4"),
    "name in many scripts": _named("Grüße 李 ليلى 🎬.mp4"),
    "name that is not UTF-8": _named(b"caf\xe9 \xff.mp4"),
    "very long name": _named("n" * 240 + ".mp4"),
    "symbolic link": _linked,
}
