"""Clips as the data contract asks: stream, tags, groups, quality, and the same bytes every time."""

import hashlib
import io
import platform
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from preprocessing.config import EncodeConfig
from preprocessing.decode import DecodeError, decode_clip
from preprocessing.decode.clip import ClipReader
from preprocessing.encode.clip_encoder import encode_clip, x264_vectors
from preprocessing.encode.mp4_layout import index_first
from preprocessing.errors import UserError


def _moving(count: int, side: int = 128, seed: int = 0) -> list[np.ndarray]:
    """Smooth, moving, slightly noisy pictures."""
    rng = np.random.default_rng(seed)
    large = cv2.resize(
        rng.integers(0, 256, (12, 12, 3)).astype(np.uint8),
        (side * 2, side * 2),
        interpolation=cv2.INTER_CUBIC,
    )
    noise = rng.normal(0, 2, (count, side, side, 1))
    return [
        np.clip(large[n : n + side, 2 * n : 2 * n + side] + noise[n], 0, 255).astype(np.uint8)
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def clip() -> bytes:
    return encode_clip(_moving(60))


def test_stream_parameters(clip: bytes) -> None:
    with av.open(io.BytesIO(clip)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, stream.profile, context.pix_fmt) == ("h264", "High", "yuv420p")
        assert stream.average_rate == Fraction(25)
        assert (context.colorspace, context.color_range) == (1, 1)
        assert (context.color_primaries, context.color_trc) == (1, 1)
        assert stream.start_time == 0
        packets = [packet for packet in container.demux(stream) if packet.size]
    assert [packet.pts for packet in packets] == [packet.dts for packet in packets], "no B-frames"
    assert len({packet.duration for packet in packets}) == 1
    keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
    assert keys[0] == 0
    assert max(np.diff([*keys, len(packets)])) <= 12


def test_groups_of_pictures_are_closed(clip: bytes) -> None:
    """Decoding from any key frame gives what decoding from the start gives."""
    whole = decode_clip(clip)
    with ClipReader(clip) as reader:
        keys = list(reader._keys)
    for key, after in zip(keys, [*keys[1:], len(whole)], strict=True):
        assert np.array_equal(decode_clip(clip, range(key, after)), whole[key:after])


def test_index_comes_first_without_version_tags(clip: bytes) -> None:
    assert clip.index(b"moov") < clip.index(b"mdat")
    assert b"Lavf" not in clip
    assert index_first(clip) == clip


def test_bytes_are_equal_across_processes(clip: bytes) -> None:
    code = (
        "import hashlib, sys; sys.path[:0] = ['.', 'tests/unit/preprocessing/encode'];"
        "import test_clip_encoder as t; from preprocessing.encode.clip_encoder import encode_clip;"
        "print(hashlib.sha256(encode_clip(t._moving(60))).hexdigest())"
    )
    output = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=__file__.rsplit("/tests/", 1)[0],
        env={"OMP_NUM_THREADS": "2", "PATH": ""},
    )
    assert output.stdout.strip() == hashlib.sha256(clip).hexdigest()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names vector code of x86")
@pytest.mark.parametrize("side", [96, 144, 304, 512])
def test_bytes_are_equal_across_vector_extensions(
    side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_vectors = encode_clip(_moving(25, side))
    monkeypatch.setattr("preprocessing.encode.clip_encoder.x264_vectors", lambda: "asm=sse4.2")
    assert with_vectors == encode_clip(_moving(25, side))


def test_avx512_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, expected in (("fma avx2 avx512f", "asm=avx2"), ("fma avx2", "asm=auto")):
        (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
        monkeypatch.setattr("preprocessing.encode.clip_encoder._CPU", tmp_path / "cpuinfo")
        assert x264_vectors.__wrapped__() == expected
    monkeypatch.setattr("preprocessing.encode.clip_encoder._CPU", tmp_path / "none")
    assert x264_vectors.__wrapped__() == "asm=auto"


def test_side_data_of_decoded_frames_is_not_encoded() -> None:
    """A source's picture types and captions must not reach our encoder."""
    pictures = _moving(30)
    source = encode_clip(pictures, config=EncodeConfig(gop=3))
    with av.open(io.BytesIO(source)) as container:
        decoded = list(container.decode(video=0))
    from_decoder = encode_clip(decoded)
    plain = [av.VideoFrame.from_ndarray(f.to_ndarray(), format="yuv420p") for f in decoded]
    assert from_decoder == encode_clip(plain)


def test_quality(clip: bytes) -> None:
    """Brightness; colour at this saturation suffers from 4:2:0 whatever the encoder does."""
    weights = np.array([0.2126, 0.7152, 0.0722])
    error = (((decode_clip(clip) - np.stack(_moving(60)).astype(float)) @ weights) ** 2).mean()
    assert 10 * np.log10(255**2 / error) > 38


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(24), Fraction(30000, 1001)])
def test_other_rates(rate: Fraction) -> None:
    mp4 = encode_clip(_moving(12, 64), fps=float(rate))
    with ClipReader(mp4) as reader:
        assert len(reader) == 12
        assert reader.fps == pytest.approx(float(rate), rel=1e-6)


def test_bad_input_is_refused() -> None:
    good = _moving(2, 64)
    with pytest.raises(ValueError, match="at least one frame"):
        encode_clip([])
    with pytest.raises(ValueError, match="even"):
        encode_clip([np.zeros((63, 64, 3), np.uint8)])
    with pytest.raises(ValueError, match="frame 1 is 32×32"):
        encode_clip([good[0], np.zeros((32, 32, 3), np.uint8)])
    with pytest.raises(ValueError, match="uint8"):
        encode_clip([np.zeros((64, 64, 3), np.float32)])
    with pytest.raises(UserError, match=r"encode\.gop"):
        EncodeConfig(gop=13)


def test_random_windows_decode_few_frames(clip: bytes) -> None:
    whole = decode_clip(clip)
    most = 0
    for start in range(len(whole) - 15):
        with ClipReader(clip) as reader:
            window = reader.frames_at(range(start, start + 16))
            most = max(most, reader.frames_decoded)
        assert np.array_equal(window, whole[start : start + 16])
    assert most <= 28


def test_frame_numbers_in_any_order(clip: bytes) -> None:
    whole = decode_clip(clip)
    wanted = [59, 0, 13, 13, 12, 40, 11]
    with ClipReader(clip) as reader:
        assert np.array_equal(reader.frames_at(wanted), whole[wanted])
        assert np.array_equal(reader.frames_at([5]), whole[[5]])
        assert reader.frames_at([]).shape == (0, 128, 128, 3)
        for wrong in ([60], [-1], [0, 100]):
            with pytest.raises(IndexError):
                reader.frames_at(wrong)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "noise"])
def test_damaged_clips_raise(clip: bytes, damage: str) -> None:
    start = clip.index(b"mdat") + 8
    data = {
        "cut": clip[: len(clip) * 2 // 3],
        "empty": b"",
        "text": b"not a clip" * 100,
        "noise": clip[:start] + bytes(byte ^ 0x5A for byte in clip[start:]),
    }[damage]
    with pytest.raises(DecodeError) as caught:
        decode_clip(data)
    assert caught.value.reason in ("corrupt", "no_video_stream")
