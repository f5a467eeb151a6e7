"""Things named like a video that are none, or that ask for the impossible."""

import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from footage import Footage
from mp4_surgery import TABLE, boxes, find, inserted, sample_ranges, set_word
from writing import SHORT, Made, encode, quarantined, tone

Kind = Callable[[Path, Footage], Made]


def _bytes(name: str, content: bytes, *reasons: str) -> Kind:
    def make(folder: Path, footage: Footage) -> Made:
        path = folder / name
        path.write_bytes(content)
        return quarantined(path, *reasons)

    return make


def _noise(folder: Path, footage: Footage) -> Made:
    path = folder / "noise_bytes.mp4"
    path.write_bytes(np.random.default_rng(4).integers(0, 256, 60_000, dtype=np.uint8).tobytes())
    return quarantined(path, "not_video", "corrupt")


def _sound_only(folder: Path, footage: Footage) -> Made:
    path = folder / "sound_only.mp4"
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as output:
        stream = output.add_stream("aac", rate=16000, layout="mono")
        for packet in tone(stream, 3.0):
            output.mux(packet)
    return quarantined(path, "no_video_stream")


def _song_with_cover(folder: Path, footage: Footage) -> Made:
    path = folder / "song_with_cover.mp4"
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as output:
        sound = output.add_stream("aac", rate=16000, layout="mono")
        cover: Any = output.add_stream("mjpeg", rate=1)
        cover.width = cover.height = 64
        cover.pix_fmt = "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        still = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        still.pts = 0
        for packet in [*cover.encode(still), *cover.encode(None), *tone(sound, 2.0)]:
            output.mux(packet)
    return quarantined(path, "no_video_stream")


def _picture(suffix: str) -> Kind:
    def make(folder: Path, footage: Footage) -> Made:
        path = folder / f"picture{suffix[1:]}.mp4"
        _, content = cv2.imencode(suffix, footage(0, 1)[0][..., ::-1])
        path.write_bytes(content.tobytes())
        return quarantined(path, "not_video")

    return make


def _archive(folder: Path, footage: Footage) -> Made:
    path = folder / "archive.mp4"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("a.txt"), "words " * 1000)
    return quarantined(path, "not_video")


def _folder(folder: Path, footage: Footage) -> Made:
    path = folder / "folder.mp4"
    path.mkdir(exist_ok=True)
    return quarantined(path, "not_a_file")


def _pipe(folder: Path, footage: Footage) -> Made:
    path = folder / "pipe.mp4"
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return quarantined(path, "not_a_file")


def _broken_link(folder: Path, footage: Footage) -> Made:
    path = folder / "broken_link.mp4"
    path.unlink(missing_ok=True)
    path.symlink_to(folder / "nowhere.mp4")
    return quarantined(path, "missing")


def _link_to_itself(folder: Path, footage: Footage) -> Made:
    path = folder / "link_to_itself.mp4"
    path.unlink(missing_ok=True)
    path.symlink_to(path)
    return quarantined(path, "missing")


def _index_only(folder: Path, footage: Footage) -> Made:
    path = encode(folder / "index_only.mp4", footage(0, SHORT))
    data = path.read_bytes()
    path.write_bytes(b"".join(data[s:e] for kind, s, e in boxes(data) if kind != b"mdat"))
    return quarantined(path, "truncated", "no_frames")


def _huge_frame(folder: Path, footage: Footage) -> Made:
    """Honest to the last byte: one 16 000-pixel-square picture, small when compressed."""
    path = folder / "huge_frame.mov"
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as output:
        stream: Any = output.add_stream("png", rate=25)
        stream.width = stream.height = 16000
        stream.pix_fmt = "monob"
        stream.codec_context.thread_count = 1
        stream.options = {"compression_level": "1", "pred": "none"}
        frame = av.VideoFrame(16000, 16000, "monob")
        for number in range(2):
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return quarantined(path, "too_large")


def _huge_claim(folder: Path, footage: Footage) -> Made:
    """A small stream whose header claims 65 535 pixels square: the decoder finds out the truth."""
    path = encode(folder / "huge_claim.mp4", footage(0, SHORT))
    data = path.read_bytes()
    entry = find(data, *TABLE, b"stsd")[0] + 16
    data = set_word(data, entry + 32, 0xFFFFFFFF)
    path.write_bytes(data)
    return Made(path, "healthy", clean=[(0.0, SHORT / 25)], frames=SHORT)


def _many_streams(folder: Path, footage: Footage) -> Made:
    """Three thousand copies of one track."""
    path = encode(folder / "thousands_of_streams.mp4", footage(0, 25))
    data = path.read_bytes()
    moov, moov_end = find(data, b"moov")
    track = data[slice(*find(data, b"moov", b"trak"))]
    path.write_bytes(inserted(data, moov_end, track * 3000, within=(moov,)))
    return quarantined(path, "too_large", "unsupported")


def _unknown_codec(folder: Path, footage: Footage) -> Made:
    path = encode(folder / "unknown_codec.mp4", footage(0, SHORT))
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzz1").replace(b"avcC", b"zzzC"))
    return quarantined(path, "unsupported", "no_frames", "no_video_stream")


def _promises_millions(folder: Path, footage: Footage) -> Made:
    """The sample table promises three million frames; behind the first few is nothing."""
    path = encode(folder / "promises_millions.mp4", footage(0, SHORT))
    data = path.read_bytes()
    sizes, _ = find(data, *TABLE, b"stsz")
    data = set_word(set_word(data, sizes + 12, 1), sizes + 16, 3_000_000)
    runs, _ = find(data, *TABLE, b"stsc")
    data = set_word(data, runs + 20, 3_000_000)
    data = set_word(data, find(data, *TABLE, b"stts")[0] + 16, 3_000_000)
    path.write_bytes(data)
    return quarantined(path, "no_frames", "truncated", "corrupt", "timeout")


def _days_between(folder: Path, footage: Footage) -> Made:
    """Eight frames, a day apart each: at a constant rate they would be fifteen million."""
    path = encode(
        folder / "days_between_frames.mkv", footage(0, 8), ticks=range(0, 8 * 2160000, 2160000)
    )
    return Made(path, "nothing", frames=8)


def _one_frame(folder: Path, footage: Footage) -> Made:
    path = encode(folder / "one_frame.mp4", footage(0, 1))
    return Made(path, "nothing", frames=1)


def _long_still(folder: Path, footage: Footage) -> Made:
    """One key frame shown twenty thousand times, a second each: hours of decoding from 100 KB."""
    path = encode(folder / "hours_from_nothing.mp4", footage(0, 1, 64, 64))
    data = path.read_bytes()
    count = 20_000
    offset, size = sample_ranges(data)[0]
    moov = find(data, b"moov")[0]
    holders = [find(data, *TABLE[:depth])[0] for depth in range(1, len(TABLE) + 1)]
    chunks, chunks_end = find(data, *TABLE, b"stco")
    # The index lies behind the data, so that growing it moves no data.
    assert moov > offset
    data = set_word(data, chunks + 12, count)
    more = struct.pack(">I", offset) * (count - 1)
    data = inserted(data, chunks_end, more, within=(*holders, chunks))
    for kind, words in ((b"stsz", (size, count)), (b"stts", (1, count, 12800))):
        place = find(data, *TABLE, kind)[0] + 12
        if kind == b"stsz":
            spare = find(data, *TABLE, kind)[1] - place - 8
            data = data[: place + 8] + b"\0" * spare + data[place + 8 + spare :]
        for index, word in enumerate(words):
            data = set_word(data, place + 4 * index, word)
    # Every sample is a key frame, and none is edited out.
    for kind in (b"stss", b"edts"):
        data = data.replace(kind, b"free")
    path.write_bytes(data)
    return Made(path, "nothing", frames=count)


_PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nplain.mp4\n"
_SCRIPT = b"ffconcat version 1.0\n" + b"file plain.mp4\n" * 1000

KINDS: dict[str, Kind] = {
    "no bytes": _bytes("no_bytes.mp4", b"", "empty"),
    "text": _bytes("text.mp4", b"Not a video, just words.\n" * 40, "not_video"),
    "random bytes": _noise,
    "playlist": _bytes("playlist.mp4", _PLAYLIST, "not_video"),
    "script that opens files": _bytes("script.mp4", _SCRIPT, "not_video"),
    "subtitles": _bytes("subtitles.mp4", b"1\n00:00:00,000 --> 00:00:02,000\nHi\n", "not_video"),
    "photograph as mp4": _picture(".jpg"),
    "drawing as mp4": _picture(".png"),
    "archive": _archive,
    "sound only": _sound_only,
    "song with a cover": _song_with_cover,
    "folder": _folder,
    "pipe": _pipe,
    "broken link": _broken_link,
    "link to itself": _link_to_itself,
    "only a file type": _bytes(
        "only_type.mp4", b"\0\0\0\x18ftypisom\0\0\2\0isomiso2", "truncated", "corrupt"
    ),
    "index without data": _index_only,
    "frame of 16000 pixels square": _huge_frame,
    "header claims a huge frame": _huge_claim,
    "thousands of streams": _many_streams,
    "unknown codec": _unknown_codec,
    "promises millions of frames": _promises_millions,
    "days between frames": _days_between,
    "one frame": _one_frame,
    "hours from nothing": _long_still,
}
