"""Population-based training: what may change, how far, and what happens when a trial leaves."""

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle
from ray.tune.schedulers import TrialScheduler

from pipelines.tune.population import (
    Population,
    check_changeable,
    clip,
    point_to,
    read_pointer,
    round_samples,
    take_over,
)
from preprocessing.errors import UserError

SPACE = {"optimizer.lr": ("loguniform", [1e-5, 1e-2])}


class FakeTrial:
    """A trial as the scheduler sees it, without Ray's storage."""

    PENDING, RUNNING, PAUSED = "PENDING", "RUNNING", "PAUSED"

    def __init__(self, number: int) -> None:
        self.trial_id, self.experiment_tag = f"t_{number:05d}", str(number)
        self.config = {"optimizer.lr": 1e-3 / (number + 1)}
        self.status, self.checkpoint = self.RUNNING, f"checkpoint of {number}"
        self.temporary_state = SimpleNamespace(saving_to=None)
        manager = SimpleNamespace(
            checkpoint_config=SimpleNamespace(num_to_keep=None), _latest_checkpoint_result=None
        )
        self.run_metadata = SimpleNamespace(checkpoint_manager=manager)

    def is_finished(self) -> bool:
        return self.status in ("ERROR", "TERMINATED")

    def set_experiment_tag(self, tag: str) -> None:
        self.experiment_tag = tag

    def set_config(self, config: dict[str, Any]) -> None:
        self.config = config


class FakeController:
    """Ray Tune's controller, as far as the scheduler uses it."""

    search_alg = None

    def __init__(self, scheduler: Population, number: int) -> None:
        self.scheduler = scheduler
        self.trials = [FakeTrial(n) for n in range(number)]
        # Like Ray's, it keeps trials that failed.
        self.live = set(self.trials)
        for trial in self.trials:
            scheduler.on_trial_add(self, trial)

    def get_trials(self) -> list[FakeTrial]:
        return self.trials

    def get_live_trials(self) -> set[FakeTrial]:
        return self.live

    def pause_trial(self, trial: FakeTrial, should_checkpoint: bool = True) -> None:
        trial.status = trial.PAUSED

    def _schedule_trial_save(self, trial: FakeTrial, result: Any = None) -> Any:
        return trial.checkpoint

    def report(self, number: int, value: float, turn: int = 1) -> str:
        trial = self.trials[number]
        result = {"diffusion": value, "samples_seen": 16 * turn, "round": turn}
        decision = self.scheduler.on_trial_result(self, trial, result)
        if decision == TrialScheduler.PAUSE:
            trial.status = trial.PAUSED
        return decision


@pytest.fixture
def controller() -> FakeController:
    random.seed(0)
    scheduler = Population(SPACE)
    scheduler.set_search_properties("diffusion", "min")
    return FakeController(scheduler, 4)


def taken(trial: FakeTrial) -> Any:
    result = trial.run_metadata.checkpoint_manager._latest_checkpoint_result
    return result and result.checkpoint


def test_the_worst_goes_on_from_the_best_with_changed_settings(controller: FakeController) -> None:
    before = [dict(trial.config) for trial in controller.trials]
    for number, value in ((0, 0.1), (1, 0.9), (2, 0.5)):
        assert controller.report(number, value) == TrialScheduler.PAUSE
        assert controller.scheduler.choose_trial_to_run(controller) is None
    controller.report(3, 0.4)
    assert [taken(trial) for trial in controller.trials] == [None, "checkpoint of 0", None, None]
    assert controller.trials[1].config != before[1]
    assert [t.config for t in controller.trials[2:]] == before[2:]
    assert controller.scheduler.choose_trial_to_run(controller) is not None


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_failed_trial_does_not_hold_up_the_others(controller: FakeController, when: str) -> None:
    """Ray's scheduler waits for the report of a trial that has failed."""
    if when == "before":
        controller.trials[3].status = "ERROR"
    for number, value in ((0, 0.1), (1, 0.9), (2, 0.5)):
        controller.report(number, value)
    if when == "after":
        controller.trials[3].status = "ERROR"
    assert controller.scheduler.choose_trial_to_run(controller) in controller.trials[:3]
    assert taken(controller.trials[1]) == "checkpoint of 0"
    assert taken(controller.trials[3]) is None


def test_one_trial_that_is_left_goes_on(controller: FakeController) -> None:
    controller.report(0, 0.1)
    for trial in controller.trials[1:]:
        trial.status = "ERROR"
    assert controller.scheduler.choose_trial_to_run(controller) is controller.trials[0]


def test_a_diverged_trial_and_a_last_report_wait_for_nobody(controller: FakeController) -> None:
    assert controller.report(1, float("nan"), turn=0) == TrialScheduler.CONTINUE
    for number in range(4):
        controller.report(number, 0.1 * number)
    for trial in controller.trials:
        trial.status = trial.RUNNING
    assert controller.report(0, 0.1, turn=1) == TrialScheduler.CONTINUE


def test_ray_can_pickle_the_scheduler() -> None:
    assert cloudpickle.loads(cloudpickle.dumps(Population(SPACE)))._synch


@pytest.mark.parametrize(
    "name",
    [
        "global_batch",
        "micro_batch",
        "network.unet.widths",
        "network.motion.dropout",
        "optimizer.kind",
        "data.pairs.frames",
        "seed",
        "stage",
        "init_from",
        "samples",
    ],
)
def test_what_cannot_change_within_a_run_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} cannot change within a run") as refusal:
        check_changeable({**SPACE, name: ("choice", [1, 2])})
    assert "\n" not in str(refusal.value)


def test_rates_weights_dropout_and_augmentation_may_change() -> None:
    names = ("optimizer.lr", "loss.l1", "condition.dropout", "augment.mirror")
    check_changeable({name: ("uniform", [0.1, 0.2]) for name in names})


def test_changes_stay_inside_their_ranges() -> None:
    space = {
        "optimizer.lr": ("loguniform", [1e-5, 1e-2]),
        "condition.dropout": ("quniform", [0.0, 0.5, 0.1]),
        "optimizer.warmup_samples": ("randint", [1, 10]),
        "optimizer.schedule": ("choice", ["constant", "cosine"]),
    }
    high = {
        "optimizer.lr": 0.012,
        "condition.dropout": 0.6,
        "optimizer.warmup_samples": 12,
        "optimizer.schedule": "cosine",
    }
    assert clip(high, space) == {
        "optimizer.lr": 1e-2,
        "condition.dropout": 0.5,
        "optimizer.warmup_samples": 9,
        "optimizer.schedule": "cosine",
    }
    low = {**high, "optimizer.lr": 8e-6, "condition.dropout": 0.13, "optimizer.warmup_samples": 0}
    found = clip(low, space)
    assert found["optimizer.lr"] == 1e-5
    assert found["condition.dropout"] == pytest.approx(0.1)
    assert found["optimizer.warmup_samples"] == 1


def test_many_changes_never_leave_what_the_recipe_takes(controller: FakeController) -> None:
    random.seed(1)
    trial = controller.trials[0]
    for _ in range(200):
        trial.config, _ = controller.scheduler._get_new_config(trial, trial)
        assert 1e-5 <= trial.config["optimizer.lr"] <= 1e-2


def test_rounds_are_a_fifth_and_whole_steps() -> None:
    assert round_samples(1000, 32, None) == 200
    assert round_samples(48, 32, None) == 32
    assert round_samples(48, 4, 16) == 16
    for wanted in (3, 48, 100):
        with pytest.raises(UserError, match=f"{wanted} samples between exchanges"):
            round_samples(48, 4, wanted)
    with pytest.raises(UserError, match="32 samples between exchanges"):
        round_samples(32, 32, None)


def checkpoint(run_dir: Path, samples_seen: int, content: str) -> Path:
    folder = run_dir / "checkpoints" / f"{samples_seen:012d}"
    (folder / "bundle").mkdir(parents=True)
    (folder / "bundle" / "raw.safetensors").write_text(content)
    return folder


@pytest.mark.parametrize("seen", [8, 16, 24])
def test_taking_over_leaves_only_the_other_ones_checkpoint(tmp_path: Path, seen: int) -> None:
    """The position may go back, stay, or go forward."""
    mine, other = tmp_path / "trial-00000", tmp_path / "trial-00001"
    for position in (8, 16):
        checkpoint(mine, position, "mine")
    theirs = checkpoint(other, seen, "theirs")
    for _ in range(2):
        take_over(mine, other, seen)
        (found,) = (mine / "checkpoints").iterdir()
        assert found.name == theirs.name
        assert (found / "bundle" / "raw.safetensors").read_text() == "theirs"
    # The other trial loses nothing when this one goes on.
    assert (theirs / "bundle" / "raw.safetensors").read_text() == "theirs"


def test_a_checkpoint_that_is_gone_leaves_the_own_ones(tmp_path: Path) -> None:
    mine, other = tmp_path / "trial-00000", tmp_path / "trial-00001"
    kept = checkpoint(mine, 8, "mine")
    with pytest.raises(UserError, match="trial-00001 has no checkpoint at sample 8"):
        take_over(mine, other, 8)
    assert list((mine / "checkpoints").iterdir()) == [kept]


def test_rays_checkpoint_only_names_ours(tmp_path: Path) -> None:
    pointer = point_to(tmp_path, 16)
    assert read_pointer(pointer) == (tmp_path.name, 16)
    (file,) = Path(pointer.path).iterdir()
    assert json.loads(file.read_text()) == {"run": tmp_path.name, "samples_seen": 16}
