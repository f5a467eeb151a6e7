"""What can be opened, how it is refused, what a probe tells, and that memory stays flat."""

import io
import os
import threading
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from marked_video import read_number

from preprocessing.dataset.probe import content_id, probe
from preprocessing.decode import DecodeError, DecodeLimits, open_video


@pytest.fixture
def plain(marked) -> Path:
    return marked("h264").path


def _numbers(source: object) -> list[int]:
    with open_video(source) as reader:  # type: ignore[arg-type]
        return [read_number(frame.rgb()) for frame in reader.frames()]


def test_paths_bytes_streams_and_urls(plain: Path) -> None:
    data = plain.read_bytes()
    expected = list(range(40))
    assert _numbers(plain) == expected
    assert _numbers(str(plain)) == expected
    assert _numbers(data) == expected
    assert _numbers(io.BytesIO(data)) == expected
    assert _numbers(f"file://{plain}") == expected
    import fsspec

    with fsspec.open("memory://clip.mp4", "wb") as stream:
        stream.write(data)
    assert _numbers("memory://clip.mp4") == expected


def test_missing_and_unsuitable_sources(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("words")
    for source, reason in (
        (tmp_path / "none", "missing"),
        ("memory://none.mp4", "missing"),
        (tmp_path, "not_a_file"),
        (pipe, "not_a_file"),
        (Path("/dev/zero"), "not_a_file"),
        (tmp_path / "empty", "empty"),
        (b"", "empty"),
        (tmp_path / "text", "not_video"),
        (b"\0" * 5000, "not_video"),
        ("a\0b", "missing"),
    ):
        with pytest.raises(DecodeError) as caught:
            open_video(source)
        assert caught.value.reason == reason


def test_playlists_open_nothing_else(tmp_path: Path, plain: Path) -> None:
    """A list that names a readable video, and a server, is still no video."""
    for text in (
        f"ffconcat version 1.0\nfile '{plain}'\n",
        f"#EXTM3U\n#EXTINF:2,\n{plain}\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXTINF:2,\nhttp://127.0.0.1:9/x.ts\n",
    ):
        path = tmp_path / "list.mp4"
        path.write_text(text)
        with pytest.raises(DecodeError) as caught:
            open_video(path)
        assert caught.value.reason == "not_video"


def test_limits(plain: Path) -> None:
    with pytest.raises(DecodeError) as caught:
        open_video(plain, limits=DecodeLimits(max_pixels=100 * 60))
    assert caught.value.reason == "too_large"
    assert "128×80" in caught.value.detail


def test_files_are_closed(plain: Path) -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = open_files()
    for _ in range(3):
        reader = open_video(plain)
        next(iter(reader.frames()))
        reader.frames_at([3])
        reader.close()
    frames = reader.frames()
    next(frames)
    frames.close()
    assert open_files() == before


def test_decoding_uses_one_thread(plain: Path) -> None:
    before = threading.active_count()
    native = len(os.listdir("/proc/self/task"))
    for _ in open_video(plain).frames():
        assert len(os.listdir("/proc/self/task")) == native
    assert threading.active_count() == before


def test_probe_has_the_facts_for_planning(marked) -> None:
    video = marked("h264 with B-frames")
    facts = probe(video.path)
    assert facts.sha256 == content_id(video.path.read_bytes())[0]
    assert facts.size_bytes == video.path.stat().st_size
    assert facts.frames == 40
    assert facts.fps == pytest.approx(25)
    assert facts.duration_s == pytest.approx(1.6)
    assert not facts.is_vfr
    assert [(key.time_us, key.index) for key in facts.key_frames] == [(0, 0)]
    assert probe(marked("variable rate").path).is_vfr
    late = probe(marked("late start").path)
    assert late.info.start_us == 10_000_000
    assert late.duration_s == pytest.approx(1.6, abs=0.002)


def test_decoding_can_start_at_probed_key_frames(tmp_path: Path) -> None:
    from marked_video import marked_picture, write

    path = tmp_path / "long.mkv"
    options = {"preset": "ultrafast", "g": "15", "bf": "2"}
    write(path, [marked_picture(number) for number in range(200)], options=options)
    facts = probe(path)
    assert len(facts.key_frames) >= 6
    with open_video(path) as reader:
        for key in facts.key_frames:
            frames = reader.frames(key.time_us / 1e6, index_at_start=key.index)
            first = next(frames)
            assert (first.index, first.pts_us) == (key.index, key.time_us)
            assert read_number(first.rgb()) == key.index
            frames.close()


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    """Ten times the frames, the same memory; the decoder's pool is the only store."""
    path = tmp_path / "long.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        stream.options = {"preset": "ultrafast", "g": "50"}
        frame = av.VideoFrame(640, 360, "yuv420p")
        for number in range(1500):
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    held_mb = []
    for index, frame in enumerate(open_video(path).frames()):
        frame.rgb_scaled(128)
        if index in (150, 1499):
            held_mb.append(psutil.Process().memory_info().rss / 2**20)
    assert held_mb[1] - held_mb[0] < 8


def test_frames_at_refuses_frames_of_different_sizes(tmp_path: Path) -> None:
    from marked_video import marked_picture, write

    parts = []
    for side in (64, 96):
        path = tmp_path / f"{side}.h264"
        write(path, [marked_picture(n, side * 2, side) for n in range(5)], options={"bf": "0"})
        parts.append(path.read_bytes())
    reader = open_video(b"".join(parts))
    sizes = [(frame.width, frame.height) for frame in reader.frames()]
    assert sizes == [(128, 64)] * 5 + [(192, 96)] * 5
    assert reader.frames_at([0, 4]).shape == (2, 64, 128, 3)
    with pytest.raises(DecodeError, match="differ in size"):
        reader.frames_at([4, 5])


def test_frames_outlive_their_reader(plain: Path) -> None:
    with open_video(plain) as reader:
        kept = [frame for frame, _ in zip(reader.frames(), range(5), strict=False)]
    assert [read_number(frame.rgb()) for frame in kept] == [0, 1, 2, 3, 4]
    assert isinstance(kept[0].rgb(), np.ndarray)
