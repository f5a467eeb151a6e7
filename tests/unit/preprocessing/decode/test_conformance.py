"""Conformance of all decoders: the right frame by number and by time, upright, at its true size.

A backend may refuse a kind that it decodes wrongly; it may never return a wrong frame. The
reference, PyAV, may refuse none of these.
"""

import numpy as np
import pytest
from marked_video import FRAMES, KINDS, MarkedVideo, read_number

from preprocessing.decode import Backend, BackendRefusalError, VideoReader, open_video
from preprocessing.decode.pyav.reader import PyavReader

# Where Matroska and others round times to a millisecond.
TIME_STEP_US = 1000


@pytest.fixture(params=KINDS)
def video(request: pytest.FixtureRequest, marked) -> MarkedVideo:
    return marked(request.param)


@pytest.fixture
def reader(backend: Backend, video: MarkedVideo) -> VideoReader:
    try:
        return open_video(video.path, backend)
    except BackendRefusalError:
        if backend == "pyav":
            raise
        with open_video(video.path, backend, fall_back=True) as reader:
            assert isinstance(reader, PyavReader)
            return reader


def test_frames_are_in_order_and_on_time(reader: VideoReader, video: MarkedVideo) -> None:
    frames = [
        (f.index, read_number(f.rgb()), f.pts_us, (f.width, f.height)) for f in reader.frames()
    ]
    count = len(video.numbers)
    assert [frame[1] for frame in frames] == video.numbers
    assert [frame[0] for frame in frames] == list(range(count))
    late = np.abs(np.array([frame[2] for frame in frames]) - np.array(video.times_us))
    assert late.max() <= TIME_STEP_US / 2
    assert {frame[3] for frame in frames} == {video.size}
    assert not reader.damage


def test_frames_by_number_in_any_order(reader: VideoReader, video: MarkedVideo) -> None:
    count = len(video.numbers)
    wanted = [count - 1, 0, 11, 12, 12, 3, count - 2, 25]
    pictures = reader.frames_at(wanted)
    assert pictures.shape == (len(wanted), video.size[1], video.size[0], 3)
    assert pictures.dtype == np.uint8
    assert [read_number(picture) for picture in pictures] == [video.numbers[i] for i in wanted]
    with pytest.raises(IndexError):
        reader.frames_at([count])
    with pytest.raises(IndexError):
        reader.frames_at([-1])


def test_frame_at_time(reader: VideoReader, video: MarkedVideo) -> None:
    for place in (0, 1, 9, 10, 17, len(video.numbers) - 1):
        for offset_us in (TIME_STEP_US, 15_000):
            frame = reader.frame_at_time((video.times_us[place] + offset_us) / 1e6)
            assert read_number(frame.rgb()) == video.numbers[place]
            assert frame.index == place
    before = reader.frame_at_time(video.times_us[0] / 1e6 - 5)
    assert read_number(before.rgb()) == video.numbers[0]


@pytest.mark.parametrize("span", [(10, 20), (13, 31), (1, 2), (25, FRAMES)])
def test_frames_of_a_time_span(
    reader: VideoReader, video: MarkedVideo, span: tuple[int, int]
) -> None:
    first, last = span[0], min(span[1], len(video.numbers))
    half_us = 5_000
    start_s = (video.times_us[first] - half_us) / 1e6
    end_s = (video.times_us[last] - half_us) / 1e6 if last < len(video.times_us) else None
    frames = [(f.index, read_number(f.rgb())) for f in reader.frames(start_s, end_s)]
    assert frames == [(i, video.numbers[i]) for i in range(first, last)]


def test_kinds_that_decord_refuses(marked) -> None:
    """Kinds that decord decodes wrongly are refused, and the others are not."""
    pytest.importorskip("decord")
    refused = set()
    for kind in KINDS:
        try:
            open_video(marked(kind).path, "decord").close()
        except BackendRefusalError:
            refused.add(kind)
    assert {"AV1", "stream-copied cut", "rotated 90", "pixels 4:3", "10 bit", "HDR PQ"} <= refused
    assert not {"h264", "h264 with B-frames", "HEVC", "VP9"} & refused
