"""Brings any frame rate, constant or not, to a constant one by time stamps alone."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from preprocessing.decode.frame import Frame
from preprocessing.decode.timeline import MICROSECONDS


@dataclass(frozen=True)
class Tick:
    """One beat of the constant clock and the source frame nearest to it."""

    # Count of beats since the clock's origin; a step above 1 is a hole in the source.
    number: int
    # The beat's time in microseconds on the source's time line.
    time_us: int
    # The source frame shown at it; its own time is `frame.pts_us`.
    frame: Frame


def resample(
    frames: Iterable[Frame],
    fps: float = 25.0,
    *,
    origin_us: int | None = None,
    max_gap_s: float = 0.5,
) -> Iterator[Tick]:
    """Yield, for every beat of an `fps` clock, the source frame nearest in time.

    Beats lie at origin_us + k / fps; the origin defaults to the first frame. Give all chunks of
    one source the same origin and they agree on the beats they share. Between frames the error is
    at most half the distance of the two frames around the beat; ties go to the earlier frame.
    Where two frames lie more than `max_gap_s` apart the source has a hole: no beat inside it is
    made up, so a broken time stamp of days cannot yield millions of them; a frame with holes on
    both sides is no motion and is left out. Holds two frames at a time.
    """
    period = Fraction(MICROSECONDS) / Fraction(fps).limit_denominator(1_000_000)
    max_gap_us = max_gap_s * MICROSECONDS
    previous: Frame | None = None
    is_joined = False  # whether `previous` has a neighbour within reach
    number = 0

    def time_of(tick: int) -> int:
        return origin + round(tick * period)

    origin = origin_us or 0
    for frame in frames:
        if previous is None:
            origin = frame.pts_us if origin_us is None else origin_us
            # A beat before the first frame is shown by it when within half a beat.
            number = math.ceil((frame.pts_us - origin) / period - Fraction(1, 2))
        elif frame.pts_us - previous.pts_us > max_gap_us:
            last = previous.pts_us + round(period / 2)
            while is_joined and time_of(number) <= last:
                yield Tick(number, time_of(number), previous)
                number += 1
            number = max(number, math.ceil((frame.pts_us - origin) / period - Fraction(1, 2)))
            is_joined = False
        else:
            is_joined = True
            while 2 * time_of(number) <= previous.pts_us + frame.pts_us:
                yield Tick(number, time_of(number), previous)
                number += 1
        previous = frame
    if previous is not None and is_joined:
        # The last frame is on screen for at most one more beat's worth of doubt.
        while 2 * (time_of(number) - previous.pts_us) < period:
            yield Tick(number, time_of(number), previous)
            number += 1
