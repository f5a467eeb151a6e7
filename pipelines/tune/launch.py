"""Trials of a search through Ray Tune, each a training job of its own."""

import math
import os
import random
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipelines.tracking import RunLog
from pipelines.train.progress import TrainProgress
from pipelines.train.run_folder import is_open
from pipelines.train.worker import PLACEMENT_FILE
from pipelines.tune.progress import Listener, ReportTrials, watcher
from pipelines.tune.search_space import Space, count_trials, to_tune
from pipelines.tune.trials import read_trial, trial_name, write_trial
from preprocessing.errors import Diverged, UserError, first_line
from xnemo.config import from_dict, override
from xnemo.training.config import TrainConfig

if TYPE_CHECKING:
    from ray.tune import Callback, Checkpoint
    from ray.tune.experiment import Trial as RayTrial

    from pipelines.train.job import TrainResult

Scheduler = Literal["asha", "pbt", "none"]
SearcherName = Literal["random", "optuna"]
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
    searcher: SearcherName
    grace_samples: int | None
    metric: str
    mode: Mode
    concurrent: int
    seed: int
    # Trials of an earlier call that have ended.
    ended: int


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
    # Samples between exchanges of population-based training; None for other schedulers.
    exchange: int | None
    # Working directory of the driver, to which relative paths refer.
    cwd: str


def run_trials(
    job: TrialJob, plan: TrialPlan, samples: int, on_progress: ReportTrials | None
) -> None:
    """Run all trials that have not ended; ``samples`` is the length of a trial."""
    # Tune's newer output prints tables even if it is disabled.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # Ctrl-C interrupts the search, and the same call resumes it; Tune would end it.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    from ray import tune as ray_tune
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    from pipelines.tune.draws import RecordedDraws, optuna_searcher
    from pipelines.tune.population import Population

    folder = Path(job.runs_dir)
    scheduler = FIFOScheduler()
    # The process of a trial only waits for its workers: it needs no CPU, and runs on the head node,
    # which is the last to be taken away.
    share, concurrent = 0.001, plan.concurrent
    if plan.scheduler == "asha":
        grace = plan.grace_samples or max(1, samples // 10)
        scheduler = ASHAScheduler(time_attr="samples_seen", grace_period=grace, max_t=samples + 1)
    elif plan.scheduler == "pbt":
        scheduler = Population(plan.space)
        # The whole population exists, and takes turns. A part is left for other searches.
        share, concurrent = math.floor(9000 / plan.concurrent) / 10000, 0
        random.seed(plan.seed)
        # A process for each round, so that a trial that waits holds no memory.
        warnings.filterwarnings("ignore", message="Consider boosting PBT performance")
    searcher = None
    if plan.searcher == "optuna":
        searcher = optuna_searcher(
            plan.space, folder, plan.metric, plan.mode, samples, seed=plan.seed
        )
    callbacks = [_releaser(folder)]
    if on_progress:
        total = count_trials(plan.space, plan.trials)
        callbacks.append(watcher(plan.metric, total, Listener(on_progress), plan.ended))
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(
            ray_tune.with_parameters(run_trial, job=job),
            {"CPU": 0, "node:__internal_head__": share},
        ),
        param_space=to_tune(plan.space),
        tune_config=ray_tune.TuneConfig(
            metric=plan.metric,
            mode=plan.mode,
            num_samples=plan.trials,
            scheduler=scheduler,
            search_alg=RecordedDraws(
                folder,
                plan.metric,
                samples,
                scheduler,
                searcher,
                seed=plan.seed,
                concurrent=concurrent,
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
    tuner.fit()
    for file in folder.glob(f"trial-*/{PLACEMENT_FILE}"):
        release_placement(file.parent)


def run_trial(settings: dict[str, Any], job: TrialJob) -> None:
    """Train with drawn settings inside Ray Tune and report measurements to it."""
    from ray import tune as ray_tune

    if os.path.isdir(job.cwd):
        os.chdir(job.cwd)
    name = trial_name(ray_tune.get_context().get_trial_id())
    config = override(from_dict(TrainConfig, job.config), settings)
    run = TrialRun(job, name, config)
    try:
        if job.exchange is None:
            run.train(run.report)
        else:
            run.exchange(settings, job.exchange)
        if run.reported < 0:
            raise UserError(
                f"{name} never measured {job.metric}", "compare a metric that the recipe logs"
            )
    except Diverged as error:
        # Not an error of Ray Tune's: the outcome of these settings.
        seen = {"samples_seen": max(run.reported, 0), "round": 0}
        ray_tune.report({job.metric: math.nan, **seen, "cause": str(error)})
    except Exception as error:
        found = read_trial(Path(job.runs_dir), name)
        if found is not None:
            write_trial(Path(job.runs_dir), replace(found, error=first_line(error)))
        raise


class TrialRun:
    """Training of one trial in its process."""

    def __init__(self, job: TrialJob, name: str, config: TrainConfig) -> None:
        """Train nothing yet."""
        self._job, self._name, self._config = job, name, config
        #: Position of the last report, in samples.
        self.reported = -1

    def train(
        self, on_progress: Callable[[TrainProgress], None], pause_every: int | None = None
    ) -> "TrainResult":
        """Train to the end, or to the next multiple of ``pause_every`` samples."""
        from pipelines.train.job import train

        job = self._job
        result = train(
            self._config,
            job.data,
            self._name,
            runs_dir=job.runs_dir,
            workers=job.workers,
            cpus_per_worker=job.cpus,
            use_gpu=job.gpu,
            tracking_uri=job.uri,
            experiment=job.experiment,
            parent=job.parent,
            model=None,
            previews=False,
            pause_every=pause_every,
            on_progress=on_progress,
        )
        seen = result.samples_seen
        paused = pause_every and seen and seen % pause_every < self._config.global_batch
        if result.stopped and not paused:
            raise UserError(f"{self._name} was interrupted", "run the search again to resume it")
        return result

    def report(self, progress: TrainProgress) -> None:
        """Report a measurement to Ray Tune, which may end this process.

        Raises:
            Diverged: it is not finite.
        """
        if self._job.metric in progress.metrics and progress.samples_seen > self.reported:
            self._report(progress.metrics, progress.samples_seen)

    def exchange(self, settings: dict[str, Any], every: int) -> None:
        """Train in rounds of ``every`` samples, from another trial's checkpoint if Ray says so."""
        from ray import tune as ray_tune

        from pipelines.tune.population import point_to, read_pointer, take_over

        folder = Path(self._job.runs_dir)
        run_dir = folder / self._name
        checkpoint = ray_tune.get_checkpoint()
        donor, seen = read_pointer(checkpoint) if checkpoint is not None else (self._name, 0)
        if donor != self._name:
            take_over(run_dir, folder / donor, seen)
            event = {"event": "took over", "from": donor, "settings": settings}
            with closing(RunLog(run_dir)) as log:
                log.event({**event, "samples_seen": seen})
                log.tags({f"took_over.{seen}": donor})
        found = read_trial(folder, self._name)
        assert found is not None
        write_trial(folder, replace(found, settings=settings, samples_seen=seen))
        whole = self._config.samples
        while self.reported < whole:
            result = self.train(lambda progress: None, every)
            seen = result.samples_seen
            # The end is no exchange: its round is the one before.
            number = min(seen, whole - 1) // every
            self._report(result.metrics, seen, point_to(run_dir, seen), number)

    def _report(
        self,
        metrics: Mapping[str, Any],
        samples_seen: int,
        checkpoint: "Checkpoint | None" = None,
        number: int = 0,
    ) -> None:
        from ray import tune as ray_tune

        name = self._job.metric
        if name not in metrics:
            raise UserError(
                f"{self._name} does not measure {name}", "compare a metric that it logs"
            )
        self.reported = samples_seen
        if not math.isfinite(metrics[name]):
            raise Diverged(
                f"{name} is {metrics[name]} at sample {samples_seen}", "lower optimizer.lr"
            )
        numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float)}
        ray_tune.report(
            {**numbers, "samples_seen": samples_seen, "round": number}, checkpoint=checkpoint
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
