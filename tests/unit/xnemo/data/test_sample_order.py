"""The order of samples is a pure function of (seed, n), balanced and weighted."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from xnemo.data import order
from xnemo.data.order import SampleOrder


def labels(*counts: int) -> np.ndarray:
    return np.repeat([f"p{i}" for i in range(len(counts))], counts)


def test_every_clip_comes_once_per_epoch() -> None:
    order = SampleOrder([labels(3, 4)], seed=1)
    laps = [[order.at(n) for n in range(start, start + 7)] for start in (0, 7, 14)]
    assert all(sorted(lap) == list(range(7)) for lap in laps)
    assert laps[0] != laps[1]


def test_position_needs_no_history() -> None:
    walked = SampleOrder([labels(3, 4), labels(5)], seed=3, balance="identity")
    sequence = [walked.at(n) for n in range(3000)]
    jumped = SampleOrder([labels(3, 4), labels(5)], seed=3, balance="identity")
    assert [jumped.at(n) for n in (2999, 1234, 17)] == [sequence[n] for n in (2999, 1234, 17)]


def test_seed_decides() -> None:
    first, second = (SampleOrder([labels(20)], seed=s) for s in (1, 2))
    assert [first.at(n) for n in range(20)] != [second.at(n) for n in range(20)]


def test_identities_are_balanced_and_their_clips_take_turns() -> None:
    order = SampleOrder([labels(1, 9)], seed=0, balance="identity")
    seen = Counter(order.at(n) for n in range(36))
    assert seen[0] == 18
    assert {seen[clip] for clip in range(1, 10)} == {2}


def test_weights_hold_exactly_per_block() -> None:
    order = SampleOrder([labels(2), labels(2)], seed=0, weights=(3, 1))
    for start in (0, 1024, 5120):
        owners = [order.at(n) >= 2 for n in range(start, start + 1024)]
        assert sum(owners) == 256


def test_without_weights_data_sets_count_by_size() -> None:
    order = SampleOrder([labels(30), labels(10)], seed=0)
    share = np.mean([order.at(n) >= 30 for n in range(1024)])
    assert share == 0.25


def test_a_small_positive_weight_still_gets_samples() -> None:
    order = SampleOrder([labels(5), labels(5)], seed=0, weights=(1, 1e-9))
    assert sum(order.at(n) >= 5 for n in range(1024)) == 1


def test_threads_may_share_an_order(monkeypatch: pytest.MonkeyPatch) -> None:
    people = [np.repeat(np.arange(200), 2)]
    alone = SampleOrder(people, seed=1, balance="identity")
    expected = [alone.at(n) for n in range(1000)]
    # Almost nothing is kept, so that each drops what another is about to use.
    monkeypatch.setattr(order, "_CACHED", 2)
    shared = SampleOrder(people, seed=1, balance="identity")
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(shared.at, range(1000))) == expected


def test_substitutes_are_pure_and_vary() -> None:
    order = SampleOrder([labels(50)], seed=4)
    again = SampleOrder([labels(50)], seed=4)
    draws = [order.substitute(7, attempt) for attempt in range(1, 8)]
    assert draws == [again.substitute(7, attempt) for attempt in range(1, 8)]
    assert len(set(draws)) > 3
