"""Records of trials, their ranking, and the files of a search."""

import csv
import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_run import nano_config

from pipelines.cli.settings import configure
from pipelines.tune.plot import parallel_coordinates
from pipelines.tune.results import rank_trials
from pipelines.tune.trials import Trial, finite, read_trial, read_trials, write_trial
from preprocessing.errors import UserError
from xnemo.recipes import get_recipe

SPACE = {
    "optimizer.lr": ("loguniform", [1e-5, 1e-2]),
    "optimizer.schedule": ("choice", ["constant", "cosine"]),
}


def trial(number: int, value: float | None = 1.0, state: str = "finished", **more) -> Trial:
    settings = {"optimizer.lr": 10.0 ** -(number + 2), "optimizer.schedule": "cosine"}
    return Trial(f"trial-{number:05d}", settings, "diffusion", value, 48, state, **more)


def test_a_record_is_read_back_and_a_missing_one_is_none(tmp_path: Path) -> None:
    assert read_trial(tmp_path, "trial-00000") is None
    for number in (1, 0):
        write_trial(tmp_path, trial(number, error="why <not>" if number else None))
    assert read_trials(tmp_path) == [trial(0), trial(1, error="why <not>")]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"name": "trial-00001"}', "null"])
def test_a_damaged_record_is_named(tmp_path: Path, content: str) -> None:
    write_trial(tmp_path, trial(1))
    (tmp_path / "trial-00001" / "trial.json").write_text(content)
    with pytest.raises(UserError, match=r"trial-00001/trial.json is not the record of a trial"):
        read_trials(tmp_path)


@pytest.mark.parametrize(
    ("state", "seen", "metric", "ended"),
    [
        ("finished", 48, "diffusion", True),
        # A longer search goes on with it.
        ("finished", 24, "diffusion", False),
        ("stopped", 24, "diffusion", True),
        ("diverged", 24, "diffusion", True),
        # The cause of an error may have been fixed.
        ("failed", 24, "diffusion", False),
        ("running", 24, "diffusion", False),
        ("stopped", 24, "validation_loss", False),
    ],
)
def test_what_has_ended_is_not_run_again(state: str, seen: int, metric: str, ended: bool) -> None:
    record = replace(trial(0, state=state), samples_seen=seen)
    assert record.has_ended(metric, 48) is ended


def test_what_is_not_finite_is_no_value() -> None:
    assert finite(0.5) == 0.5
    assert [finite(value) for value in (math.nan, math.inf, -math.inf, None, "1")] == [None] * 5


@pytest.mark.parametrize("mode", ["min", "max"])
def test_states_are_told_apart_and_only_whole_trials_win(tmp_path: Path, mode: str) -> None:
    best = 0.1 if mode == "min" else 9.0
    write_trial(tmp_path, trial(0, None, "diverged", error="loss is nan"))
    write_trial(tmp_path, trial(1, best, "failed", error="out of memory"))
    write_trial(tmp_path, trial(2, best, "stopped"))
    write_trial(tmp_path, trial(3, 1.0))
    write_trial(tmp_path, trial(4, 2.0))
    result = rank_trials(nano_config(), SPACE, tmp_path, "diffusion", mode)
    finished = [3, 4] if mode == "min" else [4, 3]
    assert [int(t.name[-1]) for t in result.trials] == [*finished, 2, 1, 0]
    assert result.states == "2 finished, 1 stopped, 1 failed, 1 diverged"
    with result.table.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == [t.state for t in result.trials]
    assert rows[-1]["error"] == "loss is nan"
    # The whole recipe, so that the command needs nothing else.
    assert configure(get_recipe("small"), result.settings, None) == result.best
    assert result.best.optimizer.lr == 10.0 ** -(finished[0] + 2)


def test_a_search_without_a_usable_trial_says_why(tmp_path: Path) -> None:
    write_trial(tmp_path, trial(0, None, "diverged", error="diffusion is nan at sample 8"))
    with pytest.raises(UserError, match="all 1 trials failed: diffusion is nan at sample 8"):
        rank_trials(nano_config(), SPACE, tmp_path, "diffusion", "min")


def test_the_plot_draws_usable_trials_and_puts_the_better_end_on_top() -> None:
    trials = [trial(2, 0.5), trial(3, 0.75, "stopped"), trial(4, None, "diverged")]
    space = {**SPACE, "condition.dropout": ("uniform", [0.0, 0.5])}
    for mode, top in (("min", "0.5"), ("max", "0.75")):
        root = ET.fromstring(parallel_coordinates(trials, space, "<metric>", mode))
        lines = [e for e in root if e.tag.endswith("polyline")]
        assert [e[0].text.split(",")[0] for e in lines] == ["trial-00003", "trial-00002"]
        texts = [e for e in root if e.tag.endswith("text")]
        assert {"optimizer.lr", "<metric>", "constant"} <= {e.text for e in texts}
        measured = {e.text: float(e.get("y")) for e in texts if e.text in ("0.5", "0.75")}
        assert min(measured, key=measured.get) == top


def test_one_trial_makes_a_plot_too() -> None:
    ET.fromstring(parallel_coordinates([trial(0)], SPACE, "diffusion", "min"))
