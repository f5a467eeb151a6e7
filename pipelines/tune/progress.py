"""Progress of a search."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipelines.tune.trials import trial_name

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


def watcher(metric: str, total: int, report: Listener, ended: int = 0) -> "Callback":
    """Return a callback of Ray Tune that reports trials as they measure and end.

    ``ended`` of all trials are not run again.
    """
    from ray.tune import Callback

    done = [ended]

    def say(trial: "Trial", message: str) -> None:
        report(f"{trial_name(trial.trial_id)}: {message}", done[0], total)

    class Watcher(Callback):
        def on_trial_result(
            self,
            iteration: int,
            trials: "list[Trial]",
            trial: "Trial",
            result: dict[str, Any],
            **info: object,
        ) -> None:
            say(trial, f"{metric} {result[metric]:.4g} at {result['samples_seen']}")

        def on_trial_complete(
            self, iteration: int, trials: "list[Trial]", trial: "Trial", **info: object
        ) -> None:
            done[0] += 1
            say(trial, "ended")

        def on_trial_error(
            self, iteration: int, trials: "list[Trial]", trial: "Trial", **info: object
        ) -> None:
            done[0] += 1
            say(trial, "failed")

    return Watcher()
