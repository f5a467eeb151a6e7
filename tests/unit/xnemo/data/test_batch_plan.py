"""The split of a global batch over workers."""

import pytest

from preprocessing.errors import UserError
from xnemo.data.batch_plan import plan_batches


@pytest.mark.parametrize("world", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("largest", [1, 3, 4, 16])
def test_every_sample_counts_once_on_any_number_of_workers(world: int, largest: int) -> None:
    plans = [plan_batches(16, largest, rank, world) for rank in range(world)]
    assert len({plan.accumulation for plan in plans}) == 1
    passes = [plan.step(160) for plan in plans]
    counted = [i for worker in passes for m in worker if m.weight for i in m.indices]
    assert sorted(counted) == list(range(160, 176))
    assert all(len(m.indices) <= largest for worker in passes for m in worker)
    # The mean over slots, scaled, is the mean over samples.
    slots = sum(len(worker) for worker in passes)
    filled = sum(m.weight for worker in passes for m in worker)
    assert plans[0].loss_scale == pytest.approx(slots / filled)


def test_workers_together_walk_the_samples_in_order() -> None:
    plans = [plan_batches(8, 2, rank, 2) for rank in range(2)]
    first_pass = [plan.step(0)[0].indices for plan in plans]
    assert first_pass == [(0, 1), (2, 3)]


def test_more_workers_than_samples_is_refused() -> None:
    with pytest.raises(UserError, match="9 workers"):
        plan_batches(8, 4, 0, 9)
