"""Every kind of broken or odd file, decoded where it can be killed: right outcome, right reason."""

import os
import time
from itertools import pairwise

import numpy as np
import pytest
from decode_whole import Decoded, decode_whole
from hostile_corpus import Entry, kinds

from preprocessing.sandbox.isolate import Failure, Isolated

TIME_LIMIT_S = 120.0
MEMORY_LIMIT_MB = 700
# The contract's share of clean seconds that must survive.
SALVAGED = 0.8


@pytest.fixture(scope="module")
def child():
    with Isolated() as child:
        yield child


@pytest.fixture
def entry(request: pytest.FixtureRequest, hostile_corpus_entries: list[Entry]) -> Entry:
    return next(entry for entry in hostile_corpus_entries if entry.kind == request.param)


@pytest.mark.parametrize("entry", kinds(), indirect=True)
def test_outcome(entry: Entry, child: Isolated) -> None:
    result = child.run(
        decode_whole,
        os.fspath(entry.path),
        time_limit_s=TIME_LIMIT_S,
        memory_limit_mb=MEMORY_LIMIT_MB,
    )
    if entry.outcome == "quarantined":
        assert isinstance(result, Failure)
        assert result.reason in entry.reasons
        assert result.detail
        assert "\n" not in result.detail
        return
    assert isinstance(result, Decoded), result
    if entry.frames is not None:
        assert len(result.times_us) == entry.frames
    assert result.ticks < 400, "a broken clock must not invent frames"
    if entry.outcome == "nothing":
        assert result.ticks == 0
    if entry.outcome == "partly":
        assert result.damage
        assert {span.reason for span in result.damage} <= entry.reasons
        assert _seconds_inside(entry, result) >= SALVAGED * entry.clean_s
        _assert_frames_avoid_damage(result)
        _assert_all_that_is_lost_is_told(entry, result)
    else:
        assert not result.damage


def _seconds_inside(entry: Entry, result: Decoded) -> float:
    times = [(time_us - result.start_us) / 1e6 for time_us in result.times_us]
    inside = [t for t in times if any(a - 0.001 <= t < b for a, b in entry.clean)]
    return len(inside) / 25


def _assert_frames_avoid_damage(result: Decoded) -> None:
    for span in result.damage:
        assert span.start_s < span.end_s
        inside = [t for t in result.times_us if span.start_s + 0.001 < t / 1e6 < span.end_s - 0.001]
        assert not inside


def _assert_all_that_is_lost_is_told(entry: Entry, result: Decoded) -> None:
    """Frames are 40 ms apart: a wider gap between two that came out lies in damage that is told."""
    times = np.array(result.times_us) / 1e6
    for last, following in pairwise(times):
        if following - last > 0.05:
            told = sum(
                max(0.0, min(s.end_s, following) - max(s.start_s, last)) for s in result.damage
            )
            assert told > 0.9 * (following - last - 0.04), (entry.kind, last, following)


def test_there_are_kinds_enough() -> None:
    assert len(kinds()) >= 60
    assert len(set(kinds())) == len(kinds())


def test_the_corpus_is_the_same_every_time(tmp_path, hostile_corpus_entries) -> None:
    from hostile_corpus import write_corpus

    again = write_corpus(tmp_path, only=["plain", "HEVC", "noise in one place", "sound only"])
    for entry in again:
        first = next(other for other in hostile_corpus_entries if other.kind == entry.kind)
        assert entry.path.read_bytes() == first.path.read_bytes()


def test_a_missing_file(tmp_path, child: Isolated) -> None:
    missing = child.run(decode_whole, str(tmp_path / "none.mp4"), time_limit_s=5)
    assert missing.reason == "missing"


def test_refusals_are_quick(hostile_corpus_entries: list[Entry], child: Isolated) -> None:
    """What cannot be opened must not cost time: an hour of them is a few seconds of work."""
    hopeless = [
        e for e in hostile_corpus_entries if e.reasons & {"not_video", "empty", "not_a_file"}
    ]
    began = time.process_time()
    for entry in hopeless * 3:
        child.run(decode_whole, os.fspath(entry.path), time_limit_s=10)
    assert time.process_time() - began < 2.0
