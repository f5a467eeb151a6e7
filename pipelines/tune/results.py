"""Results of a search: its trials in order, their table and plot, and the best settings."""

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from pipelines.tune.plot import parallel_coordinates
from pipelines.tune.search_space import Space
from pipelines.tune.trials import Trial, read_trials
from preprocessing.errors import UserError
from xnemo.config import override, to_dict
from xnemo.training.config import TrainConfig

# Trials of one state are ordered by their metric: an early value says less than a last one.
_ORDER = ("finished", "stopped", "running", "failed", "diverged")


@dataclass(frozen=True)
class TuneResult:
    """Outcome of a search."""

    # Folder of the search, with a run folder for each trial.
    folder: Path
    # The compared metric, and whether its least or largest value wins.
    metric: str
    mode: Literal["min", "max"]
    # All trials, best first.
    trials: list[Trial]
    # The recipe with the best trial's settings.
    best: TrainConfig
    # Files: the table of all trials (CSV), its plot (SVG), and the best settings (YAML).
    table: Path
    plot: Path
    settings: Path

    @property
    def states(self) -> str:
        """How many trials ended in each state, in words."""
        counts = Counter[str](trial.state for trial in self.trials)
        return ", ".join(f"{counts[state]} {state}" for state in _ORDER if counts[state])


def rank_trials(
    config: TrainConfig, space: Space, folder: Path, metric: str, mode: Literal["min", "max"]
) -> TuneResult:
    """Sort the trials of a search and write `trials.csv`, `trials.svg` and `best.yaml`.

    Raises:
        UserError: no trial can be used.
    """
    sign = 1 if mode == "min" else -1
    trials = sorted(
        read_trials(folder),
        key=lambda t: (not t.usable, _ORDER.index(t.state), sign * (t.value or 0)),
    )
    if not trials or not trials[0].usable:
        reason = next((t.error for t in trials if t.error), "none was started")
        raise UserError(f"all {len(trials)} trials failed: {reason}", "fix that and run again")
    best = override(config, trials[0].settings)
    result = TuneResult(
        folder,
        metric,
        mode,
        trials,
        best,
        table=folder / "trials.csv",
        plot=folder / "trials.svg",
        settings=folder / "best.yaml",
    )
    names = sorted({name for trial in trials for name in trial.settings})
    with result.table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", metric, "samples", "state", *names, "error"])
        for t in trials:
            drawn = [t.settings.get(name) for name in names]
            writer.writerow([t.name, t.value, t.samples_seen, t.state, *drawn, t.error or ""])
    result.plot.write_text(parallel_coordinates(trials, space, metric, mode))
    result.settings.write_text(yaml.safe_dump(to_dict(best), sort_keys=False))
    return result
