"""Draws are recorded: a search that runs again repeats none, and tells a searcher what it knows."""

from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle
from ray.tune.experiment import Experiment
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from pipelines.tune.draws import RecordedDraws, check_optuna, optuna_searcher
from pipelines.tune.search_space import to_tune
from pipelines.tune.trials import Trial, read_trial, read_trials, write_trial
from preprocessing.errors import UserError
from xnemo.training.monitor.run_log import RunLog

SPACE = {"optimizer.lr": ("loguniform", [1e-5, 1e-2]), "loss.l1": ("choice", [0.5, 1, 2])}


def draws(folder: Path, number: int, scheduler=None, searcher=None, concurrent=0) -> RecordedDraws:
    found = RecordedDraws(
        folder, "diffusion", 48, scheduler or FIFOScheduler(), searcher,
        seed=3, concurrent=concurrent,
    )  # fmt: skip
    space = to_tune(SPACE)
    found.add_configurations(
        [Experiment("t", lambda config: None, config=space, num_samples=number)]
    )
    return found


def all_of(generator: RecordedDraws) -> list[Any]:
    trials = []
    while (trial := generator.next_trial()) is not None:
        trials.append(trial)
    return trials


def end(generator: RecordedDraws, trial: Any, value: float, seen: int = 48, **more: Any) -> None:
    result = {"diffusion": value, "samples_seen": seen, **more}
    generator.on_trial_complete(trial.trial_id, result)


def test_settings_are_recorded_and_come_again(tmp_path: Path) -> None:
    first = all_of(draws(tmp_path, 3))
    assert [t.settings for t in read_trials(tmp_path)] == [t.config for t in first]
    # The settings of a record win: population-based training changes them.
    changed = {"optimizer.lr": 0.5, "loss.l1": 7}
    write_trial(tmp_path, Trial("trial-00001", changed, "diffusion"))
    again = all_of(draws(tmp_path, 4))
    assert [t.config for t in again[:3]] == [first[0].config, changed, first[2].config]
    assert len(again) == 4


def test_ended_trials_are_not_started_again(tmp_path: Path) -> None:
    search = draws(tmp_path, 5)
    trials = all_of(search)
    end(search, trials[0], 0.5)
    end(search, trials[1], 0.9, seen=8)
    end(search, trials[2], float("nan"), seen=8, cause="diffusion is nan")
    search.on_trial_complete(trials[3].trial_id, error=True)
    states = [trial.state for trial in read_trials(tmp_path)]
    assert states == ["finished", "stopped", "diverged", "failed", "running"]
    assert read_trial(tmp_path, "trial-00002").error == "diffusion is nan"
    assert read_trial(tmp_path, "trial-00002").value is None
    names = [t.trial_id[-5:] for t in all_of(draws(tmp_path, 6))]
    assert names == ["00003", "00004", "00005"]


def test_ended_trials_do_not_count_as_running(tmp_path: Path) -> None:
    search = draws(tmp_path, 2, concurrent=1)
    end(search, search.next_trial(), 0.5)
    again = draws(tmp_path, 3, concurrent=1)
    assert again.next_trial().trial_id.endswith("00001")
    assert again.next_trial() is None


def test_a_search_that_has_ended_starts_nothing(tmp_path: Path) -> None:
    search = draws(tmp_path, 2)
    for trial in all_of(search):
        end(search, trial, 0.5)
    again = draws(tmp_path, 2)
    assert again.next_trial() is None
    assert again.is_finished()


def test_a_resumed_scheduler_knows_the_ended_trials(tmp_path: Path) -> None:
    def asha() -> ASHAScheduler:
        return ASHAScheduler(
            time_attr="samples_seen", metric="diffusion", mode="min", grace_period=8, max_t=49
        )

    search = draws(tmp_path, 3)
    for number, trial in enumerate(all_of(search)[:2]):
        with_log = RunLog(tmp_path / f"trial-0000{number}")
        for seen in (4, 8, 12):
            with_log.metrics(seen, {"diffusion": 0.1 * (number + 1), "l1": 1.0})
        with_log.close()
        end(search, trial, 0.1, seen=48)
    worse = {"diffusion": 0.9, "samples_seen": 8}
    fresh, told = asha(), asha()
    (trial,) = all_of(draws(tmp_path, 3, told))
    decisions = []
    for scheduler in (fresh, told):
        scheduler.on_trial_add(None, trial)
        decisions.append(scheduler.on_trial_result(None, trial, dict(worse)))
    assert decisions == [TrialScheduler.CONTINUE, TrialScheduler.STOP]


def test_ray_can_pickle_the_draws(tmp_path: Path) -> None:
    """Ray Tune writes its search to disk before it runs."""
    searcher = optuna_searcher(SPACE, tmp_path, "diffusion", "min", 48, 0)
    generator = RecordedDraws(
        tmp_path, "diffusion", 48, FIFOScheduler(), searcher, seed=0, concurrent=1
    )
    assert cloudpickle.loads(cloudpickle.dumps(generator)).max_concurrent == 1


class TestOptuna:
    def search(self, folder: Path, number: int) -> RecordedDraws:
        searcher = optuna_searcher(SPACE, folder, "diffusion", "min", 48, 3)
        return draws(folder, number, searcher=searcher)

    def test_draws_follow_the_measurements(self, tmp_path: Path) -> None:
        """After forty trials, Optuna draws near the best learning rate; random draws do not."""
        search = self.search(tmp_path, 60)
        rates = []
        while (trial := search.next_trial()) is not None:
            rates.append(trial.config["optimizer.lr"])
            end(search, trial, abs(rates[-1] - 1e-4) * 1e4 + trial.config["loss.l1"])
        late = sorted(rates[40:])
        assert 3e-5 < late[len(late) // 2] < 3e-4

    def test_a_resumed_search_tells_optuna_and_does_not_repeat_its_draws(
        self, tmp_path: Path
    ) -> None:
        search = self.search(tmp_path, 4)
        trials = all_of(search)
        end(search, trials[0], 0.5)
        end(search, trials[1], float("nan"), seen=8)
        again = self.search(tmp_path, 7)
        resumed = all_of(again)
        assert [t.config for t in resumed[:2]] == [t.config for t in trials[2:]]
        rates = {t.config["optimizer.lr"] for t in (*trials, *resumed)}
        assert len(rates) == 7
        states = [t.state.name for t in again._searcher._ot_study.get_trials()]
        assert states == ["RUNNING", "RUNNING", "COMPLETE", "PRUNED", *["RUNNING"] * 3]
        end(again, resumed[0], 0.25)
        assert again._searcher._ot_study.best_value == 0.25

    @pytest.mark.parametrize(
        ("space", "scheduler", "message"),
        [
            ({"loss.l1": ("grid", [1, 2])}, "asha", "loss.l1 is a grid"),
            ({"optimizer.betas": ("choice", [[0.9, 0.99]])}, "asha", "optimizer.betas has"),
            (SPACE, "pbt", "changes settings itself"),
        ],
    )
    def test_what_it_cannot_search_is_refused(self, space, scheduler, message) -> None:
        with pytest.raises(UserError, match=message):
            check_optuna(space, scheduler)
        check_optuna(SPACE, "asha")

    def test_the_missing_library_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import sys

        monkeypatch.setitem(sys.modules, "optuna", None)
        with pytest.raises(UserError, match=r"optuna is not installed; .*xnemo\[tune\]"):
            check_optuna(SPACE, "asha")
