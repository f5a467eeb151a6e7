"""Channels and labels that change what a person sees are honoured or refused."""

from pathlib import Path

import av
import numpy as np
import pytest

from preprocessing.dataset.probe import probe
from preprocessing.decode.failure import DecodeError

SIDE, FRAMES = 64, 5


def write(
    path: Path,
    codec: str,
    pixels: str,
    alpha: int = 255,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write a grey clip whose left half has the given alpha."""
    rgba = np.full((SIDE, SIDE, 4), 128, np.uint8)
    rgba[..., 3] = 255
    rgba[:, : SIDE // 2, 3] = alpha
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width = stream.height = SIDE
        stream.pix_fmt = pixels
        if codec == "libvpx":
            # It encodes no alpha otherwise.
            stream.options = {"auto-alt-ref": "0"}
        stream.metadata.update(metadata or {})
        for _ in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format=pixels)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.webm", "libvpx-vp9", "yuva420p"),
        ("a.webm", "libvpx", "yuva420p"),
        ("a.mov", "prores_ks", "yuva444p10le"),
        ("a.mov", "png", "rgba"),
        ("a.mov", "qtrle", "argb"),
        ("a.mkv", "ffv1", "yuva420p"),
    ],
)
def test_transparent_videos_are_refused(tmp_path: Path, name: str, codec: str, pixels: str) -> None:
    with pytest.raises(DecodeError, match="transparent"):
        probe(write(tmp_path / name, codec, pixels, alpha=0))


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [("a.mov", "prores_ks", "yuva444p10le"), ("a.mov", "png", "rgba"), ("a.mov", "qtrle", "argb")],
)
def test_an_alpha_channel_that_hides_nothing_is_no_reason(
    tmp_path: Path, name: str, codec: str, pixels: str
) -> None:
    assert probe(write(tmp_path / name, codec, pixels)).frames == FRAMES


@pytest.mark.parametrize("mode", ["left_right", "top_bottom", "anaglyph_cyan_red"])
def test_two_views_are_refused_by_their_name(tmp_path: Path, mode: str) -> None:
    file = write(tmp_path / "a.mkv", "libx264", "yuv420p", metadata={"stereo_mode": mode})
    with pytest.raises(DecodeError, match=f"two views .{mode}"):
        probe(file)


def test_one_view_is_no_reason(tmp_path: Path) -> None:
    file = write(tmp_path / "a.mkv", "libx264", "yuv420p", metadata={"stereo_mode": "mono"})
    assert probe(file).frames == FRAMES


def test_dolby_vision_in_its_own_colours_is_refused(tmp_path: Path) -> None:
    """Any other tag, or declared colours, are shown as they are stored."""
    file = write(tmp_path / "a.mp4", "libx265", "yuv420p")
    content = file.read_bytes()
    tags = [tag for tag in (b"hev1", b"hvc1") if tag in content]
    assert len(tags) == 1
    assert probe(file).frames == FRAMES
    file.write_bytes(content.replace(tags[0], b"dvh1"))
    with pytest.raises(DecodeError, match=r"Dolby Vision .* tag dvh1"):
        probe(file)
