"""The driving video's sound: at its time to the end, from the first track that decodes."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest

from pipelines.animate.audio import add_sound, find_sound
from preprocessing.encode.clip_encoder import encode_clip

RATE = 48000


def beeps(starts, seconds):
    """A tenth of a second of 1 kHz at each time, silence elsewhere."""
    wave = np.zeros(int(seconds * RATE), np.float32)
    for start in starts:
        part = slice(int(start * RATE), int((start + 0.1) * RATE))
        wave[part] = 0.5 * np.sin(np.arange(part.stop - part.start) * 2 * np.pi * 1000 / RATE)
    return wave


def write(path, starts, seconds, codec="libopus", holes=False, tracks=1, origin=0.0):
    """A video of one grey with beeps; with holes, packets of silence are left out, as in DTX."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25)
        video.width = video.height = 64
        sounds = [out.add_stream(codec, rate=RATE, layout="mono") for _ in range(tracks)]
        packets = []
        for number in range(int(seconds * 25)):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 99, np.uint8))
            frame.pts, frame.time_base = number + round(origin * 25), Fraction(1, 25)
            packets += video.encode(frame)
        packets += video.encode(None)
        wave = beeps(starts, seconds)
        for sound in sounds:
            made = []
            for at in range(0, len(wave), 960):
                piece = np.ascontiguousarray(wave[None, at : at + 960])
                if "fltp" not in {f.name for f in sound.codec_context.codec.audio_formats}:
                    name = "flt" if codec == "libopus" else "s16"
                    piece = piece if name == "flt" else (piece * 32767).astype(np.int16)
                else:
                    name = "fltp"
                frame = av.AudioFrame.from_ndarray(piece, format=name, layout="mono")
                frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
                frame.pts = at + round(origin * RATE)
                made += sound.encode(frame)
            made += sound.encode(None)
            if holes:
                made = [
                    p
                    for p in made
                    if any(-0.1 < p.pts * p.time_base - origin - s < 0.2 for s in starts)
                ]
            packets += made
        packets.sort(key=lambda p: p.dts * p.time_base)
        out.mux(packets)
    return path


def heard(mp4):
    """Times at which beeps begin."""
    loud = []
    with av.open(io.BytesIO(mp4)) as file:
        for frame in file.decode(audio=0):
            level = np.abs(frame.to_ndarray().astype(float)).max(axis=0)
            loud += list(frame.time + np.flatnonzero(level > 0.15) / frame.sample_rate)
    loud = np.array(sorted(loud))
    return [loud[0], *loud[1:][np.diff(loud) > 0.3]]


def clip(seconds):
    return encode_clip([np.full((32, 32, 3), 99, np.uint8)] * int(seconds * 25), 25.0)


@pytest.mark.parametrize(
    ("name", "codec", "holes", "origin"),
    [
        ("dtx.mkv", "libopus", True, 0.0),
        ("late-dtx.mkv", "libopus", True, 2.0),
        ("plain.mkv", "libopus", False, 0.0),
        ("holes.mp4", "aac", True, 0.0),
        ("plain.mp4", "aac", False, 0.0),
        ("plain.mov", "pcm_s16le", False, 0.0),
        ("holes.mkv", "flac", True, 0.0),
        ("late.ts", "aac", False, 1.0),
    ],
)
def test_every_beep_is_heard_at_its_time(tmp_path, name, codec, holes, origin):
    source = write(tmp_path / name, (1.0, 5.0, 9.0), 10, codec, holes, origin=origin)
    with av.open(str(source)) as file:
        start_s = next(file.decode(video=0)).time
    out, fate = add_sound(clip(10), find_sound(source), start_s, 10.0)
    assert fate in ("copied", "encoded")
    np.testing.assert_allclose(heard(out), [1, 5, 9], atol=0.04)


def unknown_codec(path):
    """Rename the codec of an MP4's first sound track and hide its description."""
    content = path.read_bytes()
    for old, new in ((b"mp4a", b"apac"), (b"esds", b"free")):
        assert old in content
        content = content.replace(old, new, 1)
    path.write_bytes(content)
    return path


def test_a_track_of_an_unknown_codec_is_passed_over(tmp_path):
    both = unknown_codec(write(tmp_path / "two.mp4", (1.0,), 3, "aac", tracks=2))
    sound = find_sound(both)
    assert (sound.track, sound.lost) == (1, "track 1 has an unknown codec")
    out, fate = add_sound(clip(3), sound, 0.0, 3.0)
    assert fate == "copied (lost: track 1 has an unknown codec)"
    np.testing.assert_allclose(heard(out), [1], atol=0.04)


def test_sound_that_does_not_decode_is_lost_with_its_reason(tmp_path):
    path = unknown_codec(write(tmp_path / "one.mp4", (1.0,), 2, "aac"))
    mp4 = clip(2)
    assert add_sound(mp4, find_sound(path), 0.0, 2.0) == (
        mp4,
        "lost: track 1 has an unknown codec",
    )


def test_sound_that_ends_before_the_part_is_not_claimed(tmp_path):
    source = write(tmp_path / "short.mkv", (0.5,), 1)
    mp4 = clip(2)
    assert add_sound(mp4, find_sound(source), 5.0, 2.0) == (mp4, "none in this part")
