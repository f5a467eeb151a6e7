"""Results of a search: its trials in order, their table, and the best settings."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from preprocessing.errors import UserError
from xnemo.config import override
from xnemo.training.config import TrainConfig

if TYPE_CHECKING:
    from ray.tune import ResultGrid


@dataclass(frozen=True)
class Trial:
    """Drawn settings and their result."""

    # Name of the trial's run, a folder in that of the search.
    name: str
    # The drawn settings, by dotted name.
    settings: dict[str, Any]
    # Last value of the metric; None if the trial failed before its first.
    value: float | None
    # Position it reached, in samples.
    samples_seen: int
    state: Literal["finished", "stopped", "failed"]
    # Why it failed.
    error: str | None = None


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
    # CSV table of all trials.
    table: Path


def rank_trials(
    config: TrainConfig,
    results: "ResultGrid",
    folder: Path,
    metric: str,
    mode: Literal["min", "max"],
) -> TuneResult:
    """Sort the trials of a search and write `trials.csv` and `best.json`.

    Raises:
        UserError: all trials failed.
    """
    trials = []
    for number in range(len(results)):
        result = results[number]
        metrics = result.metrics or {}
        error = _last_line(result.error) if result.error else None
        seen = int(metrics.get("samples_seen", 0))
        state: Literal["finished", "stopped", "failed"]
        state = "failed" if error else "finished" if seen >= config.samples else "stopped"
        settings = dict(result.config or {})
        name = Path(result.path).name
        trials.append(Trial(name, settings, metrics.get(metric), seen, state, error))
    sign = 1 if mode == "min" else -1
    trials.sort(key=lambda t: (t.value is None or t.error is not None, sign * (t.value or 0)))
    if not trials or trials[0].value is None:
        reason = trials[0].error if trials else "none was started"
        raise UserError(f"all {len(trials)} trials failed: {reason}", "fix that and run again")
    table = folder / "trials.csv"
    names = sorted({name for trial in trials for name in trial.settings})
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", metric, "samples", "state", *names, "error"])
        for t in trials:
            drawn = [t.settings.get(name) for name in names]
            writer.writerow([t.name, t.value, t.samples_seen, t.state, *drawn, t.error or ""])
    best = override(config, trials[0].settings)
    (folder / "best.json").write_text(json.dumps(trials[0].settings, indent=1, sort_keys=True))
    return TuneResult(folder, metric, mode, trials, best, table)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
