"""Progress of a search."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.tune import Callback
    from ray.tune.experiment import Trial

#: Called with a message, the number of trials that ended, and the number of all.
ReportTrials = Callable[[str, int, int], None]


class Listener:
    """Calls the caller's function in this process; Ray Tune's pickled copies do nothing.

    Ray Tune pickles its callbacks, and the function may hold a terminal, which cannot be pickled.
    """

    def __init__(self, report: ReportTrials | None = None) -> None:
        """Remember the function."""
        self._report = report

    def __call__(self, message: str, done: int, total: int) -> None:
        """Call the function, if there is one."""
        if self._report is not None:
            self._report(message, done, total)

    def __reduce__(self) -> tuple[type["Listener"], tuple[()]]:
        """Leave the function out."""
        return (Listener, ())


def watcher(metric: str, draws: int, report: Listener) -> "Callback":
    """Return a callback of Ray Tune that reports trials as they measure and end.

    Trials are created one by one, so there may be more to come than exist: ``draws`` at least.
    """
    from ray.tune import Callback

    done = [0]

    def say(trials: "list[Trial]", trial: "Trial", message: str) -> None:
        total = max(draws, len(trials))
        report(f"trial {_number(trial.trial_id)}: {message}", done[0], total)

    class Watcher(Callback):
        def on_trial_result(
            self,
            iteration: int,
            trials: "list[Trial]",
            trial: "Trial",
            result: dict[str, Any],
            **info: object,
        ) -> None:
            say(trials, trial, f"{metric} {result[metric]:.4g} at {result['samples_seen']}")

        def on_trial_complete(
            self, iteration: int, trials: "list[Trial]", trial: "Trial", **info: object
        ) -> None:
            done[0] += 1
            say(trials, trial, "ended")

        def on_trial_error(
            self, iteration: int, trials: "list[Trial]", trial: "Trial", **info: object
        ) -> None:
            done[0] += 1
            say(trials, trial, "failed")

    return Watcher()


def trial_name(trial_id: str) -> str:
    """Return the name of a trial's run, the same when the search is run again."""
    return f"trial-{_number(trial_id)}"


def _number(trial_id: str) -> str:
    return trial_id.rsplit("_", 1)[-1]
