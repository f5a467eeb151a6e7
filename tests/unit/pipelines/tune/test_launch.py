"""Callbacks of a search are picklable, and placement groups of stopped trials are released once."""

import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray import cloudpickle
from ray._raylet import PlacementGroupID

from pipelines.train.worker import PLACEMENT_FILE
from pipelines.tune import launch
from pipelines.tune.progress import Listener, watcher


def test_a_listener_with_a_terminal_stays_here_and_its_copy_is_silent():
    calls = []
    lock = threading.RLock()

    def report(*words):
        with lock:
            calls.append(words)

    with pytest.raises(TypeError, match="pickle"):
        cloudpickle.dumps(report)
    listener = Listener(report)
    copy = cloudpickle.loads(cloudpickle.dumps(listener))
    copy("trial 1: ended", 1, 2)
    assert calls == []
    listener("trial 1: ended", 1, 2)
    assert calls == [("trial 1: ended", 1, 2)]
    assert cloudpickle.loads(cloudpickle.dumps(watcher("loss", 2, listener))) is not None


@pytest.fixture
def removed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the groups that Ray was asked to remove."""
    groups: list[str] = []
    monkeypatch.setattr(
        sys.modules["ray.util.placement_group"],
        "remove_placement_group",
        lambda group: groups.append(group.id.hex()),
    )
    monkeypatch.setattr(launch, "_CONTROLLER_ENDS_WITHIN_S", 0.01)
    return groups


def test_the_placement_group_of_a_stopped_trial_is_released_once(
    tmp_path: Path, removed: list[str]
) -> None:
    group = PlacementGroupID.from_random().hex()
    trial = tmp_path / "trial-00001"
    trial.mkdir()
    (trial / PLACEMENT_FILE).write_text(group)
    releaser = launch._releaser(tmp_path)
    # Ray Tune pickles callbacks for later restarts.
    assert cloudpickle.loads(cloudpickle.dumps(releaser)) is not None
    releaser.on_trial_complete(1, [], SimpleNamespace(trial_id="abc_00001"))
    releaser.on_trial_error(1, [], SimpleNamespace(trial_id="abc_00002"))
    deadline = time.monotonic() + 10
    while (trial / PLACEMENT_FILE).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    launch.release_placement(trial)
    assert removed == [group]
