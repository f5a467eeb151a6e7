"""Trials of a search through Ray Tune, each a training job of its own."""

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipelines.train.progress import TrainProgress
from pipelines.train.run_folder import is_open
from pipelines.train.worker import PLACEMENT_FILE
from pipelines.tune.progress import Listener, ReportTrials, trial_name, watcher
from pipelines.tune.search_space import Space, to_tune
from xnemo.config import from_dict, override
from xnemo.training.config import TrainConfig

if TYPE_CHECKING:
    from ray.tune import Callback, ResultGrid
    from ray.tune.experiment import Trial as RayTrial

Scheduler = Literal["asha", "none"]
Mode = Literal["min", "max"]

# Seconds that the process of a stopped trial may take to end, and its controller after it. A
# controller that is alive restarts workers whose placement group is removed.
_TRIAL_ENDS_WITHIN_S = 60.0
_CONTROLLER_ENDS_WITHIN_S = 5.0


@dataclass(frozen=True)
class TrialPlan:
    """Settings of a search; see `pipelines.tune.job.tune`."""

    space: Space
    trials: int
    scheduler: Scheduler
    grace_samples: int | None
    metric: str
    mode: Mode
    concurrent: int
    seed: int


@dataclass(frozen=True)
class TrialJob:
    """Arguments that all trials share; see `pipelines.train.job.train`."""

    # Settings of the recipe as plain data.
    config: dict[str, Any]
    data: list[str]
    # Folder of the search, in which each trial has its run folder.
    runs_dir: str
    workers: str | int
    cpus: float
    gpu: bool | None
    uri: str
    experiment: str
    # Key of the search's run.
    parent: str
    metric: str
    # Working directory of the driver, to which relative paths refer.
    cwd: str


def run_trials(
    job: TrialJob, plan: TrialPlan, samples: int, on_progress: ReportTrials | None
) -> "ResultGrid":
    """Run all trials and return Ray Tune's results; ``samples`` is the length of a trial."""
    # Tune's newer output prints tables even if it is disabled.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # Ctrl-C interrupts the search, and the same call resumes it; Tune would end it.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    from ray import tune as ray_tune
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
    from ray.tune.search import BasicVariantGenerator

    folder = Path(job.runs_dir)
    scheduler = FIFOScheduler()
    if plan.scheduler == "asha":
        grace = plan.grace_samples or max(1, samples // 10)
        scheduler = ASHAScheduler(time_attr="samples_seen", grace_period=grace, max_t=samples + 1)
    # The process of a trial only waits for its workers: it needs no CPU, and runs on the head node,
    # which is the last to be taken away.
    resources = {"CPU": 0, "node:__internal_head__": 0.001}
    callbacks = [_releaser(folder)]
    if on_progress:
        callbacks.append(watcher(plan.metric, plan.trials, Listener(on_progress)))
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(ray_tune.with_parameters(run_trial, job=job), resources),
        param_space=to_tune(plan.space),
        tune_config=ray_tune.TuneConfig(
            metric=plan.metric,
            mode=plan.mode,
            num_samples=plan.trials,
            scheduler=scheduler,
            search_alg=BasicVariantGenerator(
                random_state=plan.seed, max_concurrent=plan.concurrent
            ),
            trial_dirname_creator=lambda trial: trial_name(trial.trial_id),
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
    for file in folder.glob(f"trial-*/{PLACEMENT_FILE}"):
        release_placement(file.parent)
    return results


def run_trial(settings: dict[str, Any], job: TrialJob) -> None:
    """Train with drawn settings inside Ray Tune and report measurements to it."""
    from ray import tune as ray_tune

    from pipelines.train.job import train

    if os.path.isdir(job.cwd):
        os.chdir(job.cwd)
    reported = -1

    def report(progress: TrainProgress) -> None:
        nonlocal reported
        if job.metric in progress.metrics and progress.samples_seen > reported:
            reported = progress.samples_seen
            ray_tune.report({**progress.metrics, "samples_seen": progress.samples_seen})

    train(
        override(from_dict(TrainConfig, job.config), settings),
        job.data,
        trial_name(ray_tune.get_context().get_trial_id()),
        runs_dir=job.runs_dir,
        workers=job.workers,
        cpus_per_worker=job.cpus,
        use_gpu=job.gpu,
        tracking_uri=job.uri,
        experiment=job.experiment,
        parent=job.parent,
        model=None,
        previews=False,
        on_progress=report,
    )


def release_placement(run_dir: Path) -> None:
    """Remove the placement group that the workers of a stopped trial left, once it has ended."""
    from ray._raylet import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    file = run_dir / PLACEMENT_FILE
    if not file.is_file():
        return
    deadline = time.monotonic() + _TRIAL_ENDS_WITHIN_S
    while is_open(run_dir) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(_CONTROLLER_ENDS_WITHIN_S)
    with suppress(FileNotFoundError):
        remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(file.read_text()))))
        file.unlink(missing_ok=True)


def _releaser(folder: Path) -> "Callback":
    """Return a callback that releases the placement groups of trials that ended.

    A trial that the scheduler stops is killed together with its Ray Train controller. Ray Train
    then releases the workers' placement group through Ray's dashboard, which a private Ray lacks:
    the next trial would wait for ever.
    """
    from ray.tune import Callback

    def release_later(trial: "RayTrial") -> None:
        run_dir = folder / trial_name(trial.trial_id)
        # Not kept: Ray Tune pickles its callbacks.
        threading.Thread(target=release_placement, args=(run_dir,), daemon=True).start()

    class Releaser(Callback):
        def on_trial_complete(
            self, iteration: int, trials: "list[RayTrial]", trial: "RayTrial", **info: object
        ) -> None:
            release_later(trial)

        def on_trial_error(
            self, iteration: int, trials: "list[RayTrial]", trial: "RayTrial", **info: object
        ) -> None:
            release_later(trial)

    return Releaser()
