"""Resamples frames of any constant or variable rate to a constant rate by their time stamps."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from preprocessing.decode.frame import Frame
from preprocessing.decode.timeline import MICROSECONDS


@dataclass(frozen=True)
class Tick:
    """One tick of the constant clock and the source frame nearest to it."""

    # Ticks since the clock's origin; a step above 1 is a gap in the source.
    number: int
    # Time of the tick in microseconds on the source's timeline.
    time_us: int
    # The nearest source frame; its own time is `frame.pts_us`.
    frame: Frame


def resample(
    frames: Iterable[Frame],
    fps: float = 25.0,
    *,
    origin_us: int | None = None,
    max_gap_s: float = 0.5,
) -> Iterator[Tick]:
    """Yield, for every tick of an `fps` clock, the source frame nearest in time.

    Ties go to the earlier frame. Frames more than `max_gap_s` apart leave a gap without ticks, so
    that a broken time stamp cannot yield millions of them; a frame with gaps on both sides is left
    out. Holds two frames at a time.

    Args:
        frames: Source frames in order of time.
        fps: Rate of the clock in Hz.
        origin_us: Time of tick 0; defaults to the first frame. Chunks of one source that share it
            agree on the ticks they share.
        max_gap_s: Longest distance in seconds of two frames without a gap.
    """
    period = Fraction(MICROSECONDS) / Fraction(fps).limit_denominator(1_000_000)
    max_gap_us = max_gap_s * MICROSECONDS
    previous: Frame | None = None
    is_joined = False  # whether `previous` follows without a gap
    number = 0

    def time_of(tick: int) -> int:
        return origin + round(tick * period)

    origin = origin_us or 0
    for frame in frames:
        if previous is None:
            origin = frame.pts_us if origin_us is None else origin_us
            # The first frame also serves a tick up to half a period before it.
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
        # The last frame serves ticks up to half a period after it.
        while 2 * (time_of(number) - previous.pts_us) < period:
            yield Tick(number, time_of(number), previous)
            number += 1
