"""Record of a trial: its settings and how it ended, a JSON file in its run folder.

A search that runs again takes settings and outcomes from these files: draws are not repeated, and
no state of Ray Tune or of a searcher, which are pickles, is ever read from the run folder.
"""

import json
import math
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from preprocessing.errors import UserError

_FILE = "trial.json"

#: How a trial ended. "stopped": early, by the scheduler. "diverged": its metric or too many of its
#: steps were not finite. A "running" one resumes when the search runs again, and so does a "failed"
#: one: an error is not a property of the settings.
State = Literal["running", "finished", "stopped", "failed", "diverged"]


@dataclass(frozen=True)
class Trial:
    """Drawn settings and their result."""

    # Name of the trial's run, a folder in that of the search.
    name: str
    # The settings by dotted name; those of the last exchange in population-based training.
    settings: dict[str, Any]
    # The compared metric.
    metric: str
    # Its last value; None before the first, and if it is not finite.
    value: float | None = None
    # Position it reached, in samples.
    samples_seen: int = 0
    state: State = "running"
    # Why it failed or diverged.
    error: str | None = None

    @property
    def usable(self) -> bool:
        """Whether this trial may be the best one."""
        return self.value is not None and self.state in ("finished", "stopped")

    def has_ended(self, metric: str, samples: int) -> bool:
        """Return whether a search for ``metric`` over ``samples`` has nothing left to do for it."""
        whole = self.state != "finished" or self.samples_seen >= samples
        return self.metric == metric and self.state not in ("running", "failed") and whole


def trial_name(trial_id: str) -> str:
    """Return the name of a trial's run, the same when the search is run again."""
    return f"trial-{trial_id.rsplit('_', 1)[-1]}"


def write_trial(folder: Path, trial: Trial) -> None:
    """Write a trial's record into the folder of the search, atomically."""
    path = folder / trial.name / _FILE
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(asdict(trial), indent=1))
    os.replace(temporary, path)


def read_trial(folder: Path, name: str) -> Trial | None:
    """Return a trial's record; None if it has none.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / name / _FILE
    try:
        content = json.loads(path.read_text())
        trial = Trial(**{field.name: content[field.name] for field in fields(Trial)})
        if trial.name != name or not isinstance(trial.settings, dict):
            raise ValueError(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not the record of a trial", f"remove {path.parent}, and it starts again"
        ) from error
    return trial


def read_trials(folder: Path) -> list[Trial]:
    """Return the records of all trials of a search, in order of their numbers."""
    names = sorted(path.parent.name for path in folder.glob(f"trial-*/{_FILE}"))
    return [trial for name in names if (trial := read_trial(folder, name)) is not None]


def count_ended(folder: Path, total: int, metric: str, samples: int) -> int:
    """Return how many of the first ``total`` trials of a search have ended."""
    found = [read_trial(folder, trial_name(f"{number:05d}")) for number in range(total)]
    return sum(trial is not None and trial.has_ended(metric, samples) for trial in found)


def finite(value: Any) -> float | None:
    """Return a measurement, or None if there is none or it is not finite."""
    number = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if number else None
