"""Time stamps decide: rates that files have, pauses and last frames."""

from fractions import Fraction

import av
import numpy as np
import pytest

from preprocessing.errors import UserError
from xnemo.animation.driving_video import DrivingVideo, own_rate


def write(path, times_s, base=Fraction(1, 120000), rate=None):
    """A video whose frame k has brightness 2 k, at the given times."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=rate or 30)
        stream.width = stream.height = 64
        stream.codec_context.time_base = stream.time_base = base
        stream.codec_context.options = {"bf": "0"}
        for number, time_s in enumerate(times_s):
            image = np.full((64, 64, 3), 2 * number % 250, np.uint8)
            frame = av.VideoFrame.from_ndarray(image)
            frame.pts, frame.time_base = round(time_s / base), base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(
    ("rate", "expected", "every"),
    [
        (Fraction(60000, 1001), 60000 / 1001, 1),
        (Fraction(6012, 100), 60.12, 1),
        (Fraction(120000, 1001), 60000 / 1001, 2),
        (Fraction(90), 45, 2),
        (Fraction(240), 60, 4),
        (Fraction(24000, 1001), 24000 / 1001, 1),
        (Fraction(15, 2), 7.5, 1),
    ],
)
def test_frames_are_as_many_and_as_even_as_recorded(tmp_path, suffix, rate, expected, every):
    count = 48
    path = write(tmp_path / f"x{suffix}", [k / rate for k in range(count)], rate=rate)
    video = DrivingVideo(path)
    assert video.fps == pytest.approx(expected, rel=2e-3)
    levels = [int(frame.mean()) // 2 for frame in video]
    assert abs(len(levels) - count // every) <= 1
    # Matrix rounding may move a level by one.
    np.testing.assert_allclose(levels, np.arange(len(levels)) * every, atol=every)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_recording_that_pauses_keeps_the_rate_of_its_moving_parts(tmp_path, suffix):
    moving = [k / 30 for k in range(30)]
    times = [*moving, *(6 + t for t in moving), *(15 + t for t in moving)]
    video = DrivingVideo(write(tmp_path / f"x{suffix}", times))
    assert video.fps == pytest.approx(30, rel=5e-3)
    levels = np.array([int(frame.mean()) // 2 for frame in video])
    assert len(levels) == pytest.approx(16 * 30, abs=2)
    assert np.ptp(levels[40:85]) == 0
    # All frames of the last second are there, at their time.
    assert len(set(levels[450:].tolist())) >= 28


def test_the_last_frame_is_shown_as_long_as_the_file_says(tmp_path):
    times = [k / 25 for k in range(25)]
    path = write(tmp_path / "x.mp4", [*times, 1.0], rate=25)
    assert len(list(DrivingVideo(path))) == 26


def test_a_pause_longer_than_half_a_minute_is_kept(tmp_path):
    path = write(tmp_path / "x.mp4", [0, 0.1, 0.2, 45.0, 45.1, 45.2])
    assert len(list(DrivingVideo(path))) == pytest.approx(453, abs=1)


@pytest.mark.parametrize(
    ("steps_ms", "header", "rate"),
    [
        ([33, 34, 33, 33, 50, 66] * 20, 0.0, 30),
        ([17, 17, 16] * 20, 60000 / 1001, 60000 / 1001),
        ([17] * 40 + [33] * 60, 23.0, 1000 / 17),
        ([40] * 50 + [5000], 9.0, 25),
        ([40, 0, 40, 0, 40], 25.0, 25),
        ([], 0.0, 25),
        ([20] * 30, 25.0, 50),
    ],
)
def test_the_rate_is_that_of_the_parts_that_move(steps_ms, header, rate):
    times = np.cumsum([0, *steps_ms]) * 1000
    assert own_rate(times, header) == pytest.approx(rate, rel=0.02)


def test_fields_stored_as_packets_are_not_frames():
    assert own_rate(np.arange(100) * 20000, 25.0, interlaced=True) == 25


def test_a_rate_measured_by_another_clock_may_be_asked_for(tmp_path):
    path = write(tmp_path / "x.mp4", [k / 60.12 for k in range(30)], rate=Fraction(6012, 100))
    own = DrivingVideo(path)
    assert DrivingVideo(path, own.fps).fps == own.fps
    with pytest.raises(UserError, match="fps = 61"):
        DrivingVideo(path, 61.0)
