"""What a trial's workers held is given back once, and what was never noted is nobody's."""

import sys
from pathlib import Path

import pytest
from ray import cloudpickle
from ray._raylet import PlacementGroupID

from pipelines.cluster import placement


@pytest.fixture
def removed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Groups that Ray was asked to remove."""
    groups: list[str] = []
    monkeypatch.setattr(
        sys.modules["ray.util.placement_group"],
        "remove_placement_group",
        lambda group: groups.append(group.id.hex()),
    )
    monkeypatch.setattr(placement, "_CONTROLLER_GONE_S", 0.01)
    return groups


def test_what_was_noted_is_given_back_once(tmp_path: Path, removed: list[str]) -> None:
    group = PlacementGroupID.from_random().hex()
    (tmp_path / ".placement").write_text(group)
    releases = placement.PlacementReleases()
    releases.after(tmp_path)
    releases.wait()
    releases.after(tmp_path)
    releases.after(tmp_path / "never started")
    releases.wait()
    assert removed == [group]
    assert list(tmp_path.iterdir()) == []


def test_a_copy_for_a_later_restart_gives_nothing_back(tmp_path: Path, removed: list[str]) -> None:
    (tmp_path / ".placement").write_text(PlacementGroupID.from_random().hex())
    releases = placement.PlacementReleases()
    releases.after(tmp_path)
    copy = cloudpickle.loads(cloudpickle.dumps(releases))
    copy.wait()
    releases.wait()
    assert len(removed) == 1


def test_workers_that_ended_in_good_order_leave_nothing(tmp_path: Path, removed: list[str]) -> None:
    (tmp_path / ".placement").write_text(PlacementGroupID.from_random().hex())
    placement.forget_placement(tmp_path)
    placement.forget_placement(tmp_path)
    placement.release_placement(tmp_path)
    assert removed == []
