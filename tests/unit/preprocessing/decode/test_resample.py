"""The constant clock: every beat the nearest frame, no invented ones, no drift."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessing.decode import resample


@dataclass
class Shown:
    """Stands in for a frame: only its time matters."""

    pts_us: int


def _frames(times_us: list[int]) -> list[Shown]:
    return [Shown(time_us) for time_us in times_us]


def test_a_constant_25_is_unchanged() -> None:
    ticks = list(resample(_frames([number * 40_000 for number in range(250)])))
    assert [tick.number for tick in ticks] == list(range(250))
    assert all(tick.frame.pts_us == tick.time_us for tick in ticks)


def test_a_late_start_and_times_before_zero() -> None:
    for first in (-600_000, 10_000_000, 123_457):
        ticks = list(resample(_frames([first + number * 40_000 for number in range(50)])))
        assert [tick.number for tick in ticks] == list(range(50))
        assert [tick.frame.pts_us for tick in ticks] == [tick.time_us for tick in ticks]


@pytest.mark.parametrize("rate", [10, 12.5, 23.976, 24, 29.97, 30, 50, 59.94, 60, 120])
def test_ten_minutes_do_not_drift(rate: float) -> None:
    count = int(600 * rate)
    ticks = list(resample(_frames([round(number * 1e6 / rate) for number in range(count)])))
    assert abs(len(ticks) - 15_000) <= 25 / rate + 1
    late = max(abs(tick.frame.pts_us - tick.time_us) for tick in ticks)
    assert late <= 0.5e6 / min(rate, 25) + 1


def test_milliseconds_of_rounding_do_not_double_frames() -> None:
    """Matroska rounds times; one frame must still be shown once."""
    times = [round(number * 1000 / 25.0 + 0.4) * 1000 for number in range(500)]
    shown = [tick.frame.pts_us for tick in resample(_frames(times))]
    assert shown == times


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(st.integers(1_000, 499_000), min_size=1, max_size=60),
    first=st.integers(-10_000_000, 10_000_000),
)
def test_every_tick_has_the_nearest_frame(steps: list[int], first: int) -> None:
    times = (first + np.concatenate([[0], np.cumsum(steps)])).tolist()
    ticks = list(resample(_frames(times)))
    numbers = [tick.number for tick in ticks]
    assert numbers == list(range(len(ticks))), "beats follow each other, from the first frame"
    for tick in ticks:
        nearest = min(abs(time_us - tick.time_us) for time_us in times)
        assert abs(tick.frame.pts_us - tick.time_us) == nearest
        if times[0] <= tick.time_us <= times[-1]:
            place = int(np.searchsorted(times, tick.time_us))
            span = times[place] - times[max(0, place - 1)]
            assert nearest <= span / 2
    assert abs(ticks[-1].time_us - times[-1]) <= 40_000


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(st.integers(5_000, 300_000), min_size=20, max_size=80),
    cut=st.integers(3, 15),
)
def test_chunks_with_one_origin_agree(steps: list[int], cut: int) -> None:
    """A source cut in two gives the beats of the whole, except near the cut."""
    times = np.concatenate([[0], np.cumsum(steps)]).tolist()
    whole = {tick.number: tick.frame.pts_us for tick in resample(_frames(times))}
    second = list(resample(_frames(times[cut:]), origin_us=0))
    for tick in second:
        if tick.time_us >= times[cut]:
            assert whole[tick.number] == tick.frame.pts_us
    assert second[-1].number == max(whole)


def test_gaps_have_no_ticks() -> None:
    day = 86_400_000_000
    one = [number * 40_000 for number in range(25)]
    two = [day + time_us for time_us in one]
    ticks = list(resample(_frames(one + two)))
    assert len(ticks) == pytest.approx(50, abs=1)
    jumps = np.diff([tick.number for tick in ticks])
    assert sorted(set(jumps.tolist()))[0] == 1
    assert (jumps > 1).sum() == 1


def test_isolated_frames_are_left_out() -> None:
    assert list(resample(_frames([0]))) == []
    assert list(resample(_frames([number * 1_000_000 for number in range(1000)]))) == []
    assert list(resample([])) == []


def test_resampling_holds_two_frames() -> None:
    """Two frames are held, not the film."""
    given_out = 0

    def endless():
        nonlocal given_out
        while True:
            yield Shown(given_out * 40_000)
            given_out += 1

    ticks = resample(endless())
    for _ in range(100):
        next(ticks)
    assert given_out <= 103
