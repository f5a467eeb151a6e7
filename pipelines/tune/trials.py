"""The trials of a search: Ray Tune draws and judges, each trial is a training run."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipelines.cluster.placement import PlacementReleases
from pipelines.train.progress import TrainProgress
from pipelines.tune.search_space import Space, to_tune
from xnemo.config import from_dict, override
from xnemo.training.config import TrainConfig

Scheduler = Literal["asha", "none"]

#: Told a line of text, trials done, and trials in all.
TellTrials = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TrialPlan:
    """What a search draws and how it judges."""

    space: Space
    trials: int
    scheduler: Scheduler
    grace_samples: int | None
    metric: str
    mode: Literal["min", "max"]
    concurrent: int
    seed: int


def run_trials(
    job: dict[str, Any],
    plan: TrialPlan,
    length: int,
    folder: Path,
    on_progress: Callable[[str, int, int], None] | None,
) -> Any:
    """Run all trials and return Ray Tune's results."""
    # Tune's newer output prints tables and advertisements even where none is asked for.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # Tune would take Ctrl-C for the search's end; it is an interrupt, and the same call goes on.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    from ray import tune as ray_tune
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
    from ray.tune.search import BasicVariantGenerator

    grace = plan.grace_samples or max(1, length // 10)
    chosen: Any = FIFOScheduler()
    if plan.scheduler == "asha":
        chosen = ASHAScheduler(time_attr="samples_seen", grace_period=grace, max_t=length + 1)
    # A trial's own process only waits for its workers: it takes no CPU from them, and sits on the
    # head node, which is the last to be taken away.
    place = {"CPU": 0, "node:__internal_head__": 0.001}
    releases = PlacementReleases()
    callbacks = [_releaser(folder, releases)]
    if on_progress:
        callbacks.append(_watcher(plan.metric, plan.trials, Listener(on_progress)))
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(ray_tune.with_parameters(run_trial, job=job), place),
        param_space=to_tune(plan.space),
        tune_config=ray_tune.TuneConfig(
            metric=plan.metric,
            mode=plan.mode,
            num_samples=plan.trials,
            scheduler=chosen,
            search_alg=BasicVariantGenerator(
                random_state=plan.seed, max_concurrent=plan.concurrent
            ),
            trial_dirname_creator=lambda trial: f"trial-{trial_number(trial.trial_id)}",
        ),
        run_config=ray_tune.RunConfig(
            name="tune",
            storage_path=str(folder / ".ray"),
            verbose=0,
            callbacks=callbacks,
            failure_config=ray_tune.FailureConfig(max_failures=0),
        ),
    )
    results = tuner.fit()
    releases.wait()
    return results


def run_trial(settings: dict[str, Any], job: dict[str, Any]) -> None:
    """Train one draw inside Ray Tune, reporting as it goes."""
    from ray import tune as ray_tune

    from pipelines.train.job import train

    if os.path.isdir(job["cwd"]):
        os.chdir(job["cwd"])
    told = [-1]

    def report(progress: TrainProgress) -> None:
        if job["metric"] in progress.metrics and progress.samples_seen > told[0]:
            told[0] = progress.samples_seen
            numbers = {k: v for k, v in progress.metrics.items() if k != "samples_seen"}
            ray_tune.report({**numbers, "samples_seen": progress.samples_seen})

    train(
        override(from_dict(TrainConfig, job["config"]), settings),
        job["data"],
        f"trial-{trial_number(ray_tune.get_context().get_trial_id())}",
        runs_dir=job["runs_dir"],
        workers=job["workers"],
        cpus_per_worker=job["cpus"],
        use_gpu=job["gpu"],
        tracking_uri=job["uri"],
        experiment=job["experiment"],
        parent=job["parent"],
        register=False,
        previews=False,
        on_progress=report,
    )


class Listener:
    """Whoever is told of trials, here; Ray Tune's copies for later restarts tell nobody.

    What is told may hold a terminal, which cannot be copied.
    """

    def __init__(self, tell: TellTrials | None = None) -> None:
        """Remember whom to tell."""
        self._tell = tell

    def __call__(self, words: str, done: int, total: int) -> None:
        """Tell, where somebody listens."""
        if self._tell is not None:
            self._tell(words, done, total)

    def __reduce__(self) -> tuple[type["Listener"], tuple[()]]:
        """Leave the listener behind."""
        return (Listener, ())


def _releaser(folder: Path, releases: PlacementReleases) -> Any:
    """Return a callback of Ray Tune's that lets go of what ended trials held."""
    from ray.tune import Callback

    class Releaser(Callback):
        def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            releases.after(folder / f"trial-{trial_number(trial.trial_id)}")

        def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            releases.after(folder / f"trial-{trial_number(trial.trial_id)}")

    return Releaser()


def _watcher(metric: str, draws: int, tell: Listener) -> Any:
    """Return a callback of Ray Tune's that tells of trials as they report and end.

    Trials are made when there is room for them, so there may be more to come than there are.
    """
    from ray.tune import Callback

    done = [0]

    def say(trials: list[Any], trial: Any, words: str) -> None:
        tell(f"trial {trial_number(trial.trial_id)}: {words}", done[0], max(draws, len(trials)))

    class Watcher(Callback):
        def on_trial_result(
            self, iteration: int, trials: list, trial: Any, result: dict, **info: Any
        ) -> None:
            say(trials, trial, f"{metric} {result[metric]:.4g} at {result['samples_seen']}")

        def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            done[0] += 1
            say(trials, trial, "ended")

        def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            done[0] += 1
            say(trials, trial, "failed")

    return Watcher()


def trial_number(trial_id: str) -> str:
    """Return a trial's number among the draws, the same when the search is run again."""
    return trial_id.rsplit("_", 1)[-1]
