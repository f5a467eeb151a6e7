import random

import pytest

from preprocessing.dataset.layout import Placed, plan_shards
from preprocessing.storage.sample import sample_key


def samples(sources, clips=3, size=100):
    return [
        Placed(sample_key(f"s{s}", 0, 0, c * 1000), size, f"d{s}.{c}")
        for s in range(sources)
        for c in range(clips)
    ]


def names(shards):
    return {shard.name: shard.keys for shard in shards}


def test_everything_that_fits_is_one_shard():
    shards = plan_shards(samples(5), limit=10_000)
    assert len(shards) == 1
    assert shards[0].keys == tuple(sorted(s.key for s in samples(5)))


def test_shards_hold_every_sample_once_within_the_limit():
    placed = samples(60)
    shards = plan_shards(placed, limit=1000)
    keys = [key for shard in shards for key in shard.keys]
    assert sorted(keys) == sorted(s.key for s in placed)
    assert len(keys) == len(set(keys))
    assert all(len(shard.keys) * 100 <= 1000 for shard in shards)
    # Branches are between half full and full on average.
    assert len(shards) <= 2 * len(placed) * 100 / 1000


def test_order_does_not_matter():
    placed = samples(40)
    shuffled = placed[:]
    random.Random(0).shuffle(shuffled)
    assert plan_shards(placed, 1000) == plan_shards(shuffled, 1000)


def test_one_more_source_touches_one_branch():
    before = names(plan_shards(samples(200), limit=3000))
    after = names(plan_shards(samples(201), limit=3000))
    changed = [name for name in before if name not in after]
    assert len(changed) <= 1
    assert len([name for name in after if name not in before]) <= 2


def test_a_changed_sample_changes_the_name_of_its_shard_alone():
    placed = samples(200)
    before = names(plan_shards(placed, limit=3000))
    placed[0] = Placed(placed[0].key, placed[0].size, "changed")
    after = names(plan_shards(placed, limit=3000))
    assert len(set(before) ^ set(after)) == 2


def test_a_source_larger_than_a_shard_is_cut_in_order():
    shards = plan_shards(samples(1, clips=25), limit=1000)
    assert [len(shard.keys) for shard in shards] == [10, 10, 5]
    keys = [key for shard in shards for key in shard.keys]
    assert keys == sorted(keys)
    assert len({shard.name for shard in shards}) == 3


def test_a_sample_larger_than_a_shard_stands_alone():
    shards = plan_shards(samples(2, clips=2, size=5000), limit=1000)
    assert [len(shard.keys) for shard in shards] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    "placed",
    [
        samples(20),
        samples(1, clips=9),
        [*samples(8), Placed(sample_key("large", 0, 0, 0), 50_000, "d")],
        samples(3, clips=1),
        samples(2, clips=5, size=1),
        [],
    ],
)
def test_a_small_data_set_has_shards_for_several_readers(placed):
    shards = plan_shards(placed, limit=10**6, least=8)
    assert len(shards) >= min(8, len(placed))
    assert sorted(key for shard in shards for key in shard.keys) == sorted(s.key for s in placed)


def test_one_more_source_touches_one_branch_of_a_small_data_set_too():
    before = names(plan_shards(samples(100), limit=10**6, least=8))
    after = names(plan_shards(samples(101), limit=10**6, least=8))
    assert len([name for name in before if name not in after]) <= 1
