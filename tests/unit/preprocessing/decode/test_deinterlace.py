import av
import numpy as np
import pytest

from preprocessing.decode import open_video

SIDE = 128


def bar_at(moment):
    """A bright bar that moves six pixels a field."""
    picture = np.full((SIDE, SIDE, 3), 60, np.uint8)
    left = 10 + round(12 * moment)
    picture[:, left : left + 24] = 200
    return picture


def woven(number):
    """Even lines of one moment, odd lines of half a frame later."""
    picture = bar_at(number)
    picture[1::2] = bar_at(number + 0.5)[1::2]
    return picture


def write(path, pictures, field_order):
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "12", "x264-params": field_order, "g": "4"}
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def combing(picture):
    """Return how much neighbouring lines differ, beside lines of one field."""
    luma = picture.astype(float).mean(-1)
    return float(np.abs(luma[1:] - luma[:-1]).mean())


@pytest.fixture
def interlaced(tmp_path):
    path = tmp_path / "woven.mp4"
    write(path, [woven(n) for n in range(6)], "tff=1")
    return path


def test_deinterlaced_frames_have_no_combing(interlaced):
    with open_video(interlaced) as reader:
        assert reader.info.interlaced
        frames = list(reader.frames())
        assert [frame.index for frame in frames] == list(range(6))
        assert [frame.pts_us for frame in frames] == [40_000 * n for n in range(6)]
        for number, frame in enumerate(frames[1:-1], start=1):
            picture = frame.rgb()
            assert combing(woven(number)) > 10
            assert combing(picture) < 4
            # It is the moment of one field, not a mixture of two.
            moments = (bar_at(number), bar_at(number + 0.5))
            assert min(np.abs(picture.astype(float) - one).mean() for one in moments) < 4


def test_random_access_is_deinterlaced(interlaced):
    with open_video(interlaced) as reader:
        assert combing(reader.frames_at([3])[0]) < 4
        (late,) = reader.frames(0.16, 0.2)
        assert late.index == 4
        assert combing(late.rgb()) < 4


def test_progressive_frames_are_unchanged(tmp_path):
    path = tmp_path / "plain.mp4"
    write(path, [woven(n) for n in range(6)], "tff=0")
    with open_video(path) as reader:
        assert not reader.info.interlaced
        assert all(combing(frame.rgb()) > 10 for frame in reader.frames())
