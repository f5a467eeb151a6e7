"""Draws of a search, recorded so that the same search resumes with the same trials."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator, Searcher

from pipelines.tune.search_space import Space, to_tune
from pipelines.tune.trials import (
    State,
    Trial,
    finite,
    read_trial,
    read_trials,
    trial_name,
    write_trial,
)
from preprocessing.errors import UserError, require_extra
from xnemo.training.monitor.run_log import read_log

if TYPE_CHECKING:
    from ray.tune.experiment import Trial as RayTrial


class RecordedDraws(BasicVariantGenerator):
    """Random draws, or those of a searcher, with each trial's settings written to its folder.

    Trials with a record get its settings. Those that have ended are not started again: the
    scheduler and the searcher are told their measurements.
    """

    def __init__(
        self,
        folder: Path,
        metric: str,
        samples: int,
        scheduler: TrialScheduler,
        searcher: Searcher | None,
        *,
        seed: int,
        concurrent: int,
    ) -> None:
        """Draw for the search in ``folder``.

        Args:
            folder: folder of the search.
            metric: the compared metric.
            samples: length of a trial.
            scheduler: told of the trials that have ended.
            searcher: draws in place of the seed; see `optuna_searcher`.
            seed: seed of the random draws.
            concurrent: trials at the same time; 0 for all.
        """
        super().__init__(random_state=seed, max_concurrent=concurrent)
        self._folder, self._compared, self._samples = folder, metric, samples
        self._scheduler, self._searcher = scheduler, searcher

    def next_trial(self) -> "RayTrial | None":
        """Return the next trial that has not ended."""
        trial: RayTrial | None
        while (trial := super().next_trial()) is not None:
            name = trial_name(trial.trial_id)
            found = read_trial(self._folder, name)
            if found is not None and found.has_ended(self._compared, self._samples):
                self._live_trials.discard(trial.trial_id)
                self._tell(trial, found)
                continue
            if self._searcher is not None:
                # Unfinished recorded points come first; see `optuna_searcher`.
                trial.set_config(self._searcher.suggest(trial.trial_id))
            if found is not None:
                trial.set_config(found.settings)
            write_trial(self._folder, Trial(name, dict(trial.config), self._compared))
            return trial
        return None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Record how a trial ended, and tell the searcher; one that diverged is a bad one."""
        super().on_trial_complete(trial_id, result, error)
        trial = read_trial(self._folder, trial_name(trial_id))
        if trial is None:
            return
        if error:
            # A trial writes down its own errors.
            why = trial.error or "its process ended, and Ray's log has the reason"
            trial = replace(trial, state="failed", error=why)
        elif result is not None:
            value, seen = finite(result.get(self._compared)), int(result["samples_seen"])
            state: State = "finished" if seen >= self._samples else "stopped"
            trial = replace(
                trial,
                value=value,
                samples_seen=seen,
                state="diverged" if value is None else state,
                error=result.get("cause"),
            )
        write_trial(self._folder, trial)
        if self._searcher is not None:
            self._searcher.on_trial_complete(trial_id, result if trial.usable else None, error)

    def _tell(self, trial: "RayTrial", found: Trial) -> None:
        if self._searcher is not None:
            value: Any = found.value
            self._searcher.add_evaluated_point(found.settings, value, pruned=not found.usable)
        if isinstance(self._scheduler, AsyncHyperBandScheduler):
            # Later trials are compared with this one. No controller is needed for that.
            controller: Any = None
            self._scheduler.on_trial_add(controller, trial)
            with suppress(UserError):
                for record in read_log(self._folder / found.name):
                    if record.get(self._compared) is not None:
                        self._scheduler.on_trial_result(controller, trial, record)
            self._scheduler.on_trial_remove(controller, trial)

    def save_to_dir(self, dirpath: Any, session_str: Any = None, **kwargs: Any) -> None:
        """Save nothing: the records are the state, and a pickle is never read."""


def check_optuna(space: Space, scheduler: str) -> None:
    """Require that Optuna can search a space.

    Raises:
        UserError: it is not installed, or the space or the scheduler is not for it.
    """
    try:
        import optuna  # noqa: F401
    except ModuleNotFoundError as error:
        require_extra(error)
        raise
    if scheduler == "pbt":
        raise UserError(
            "population-based training changes settings itself, and takes none from optuna",
            "leave out --searcher optuna, or --scheduler pbt",
        )
    for name, (draw, values) in space.items():
        if draw == "grid":
            raise UserError(f"{name} is a grid, which optuna does not search", "write choice")
        if draw == "choice" and not all(isinstance(v, str | int | float) for v in values):
            raise UserError(
                f"{name} has a choice that optuna does not take: {values!r}",
                "choose among numbers, words and true or false",
            )


def optuna_searcher(
    space: Space, folder: Path, metric: str, mode: str, samples: int, seed: int
) -> Searcher:
    """Return Optuna's searcher (tree-structured Parzen estimator) for a search."""
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    known = read_trials(folder)
    return OptunaSearch(
        OptunaSearch.convert_search_space(to_tune(space)),
        metric=metric,
        mode=mode,
        # Tried first, in this order.
        points_to_evaluate=[t.settings for t in known if not t.has_ended(metric, samples)],
        # The first draws are random: those of the seed have been made.
        seed=seed + len(known),
    )
