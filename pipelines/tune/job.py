"""Search over settings of a recipe: trials through Ray Tune, each a training run of its own."""

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path

from pipelines.cluster.connect import cluster_address, connect
from pipelines.cluster.resources import parse_workers, resources_per_worker, uses_gpu
from pipelines.tracking import RunLog, Sender, choose_uri, default_uri, sync
from pipelines.train.run_folder import open_folder
from pipelines.tune.draws import check_optuna
from pipelines.tune.launch import Mode, Scheduler, SearcherName, TrialJob, TrialPlan, run_trials
from pipelines.tune.population import check_changeable, round_samples
from pipelines.tune.progress import ReportTrials
from pipelines.tune.results import TuneResult, rank_trials
from pipelines.tune.search_space import Space, count_trials, read_space
from pipelines.tune.trials import count_ended, read_trials
from preprocessing.errors import UserError
from xnemo.config import override, to_dict
from xnemo.data.batch_plan import plan_batches
from xnemo.training.config import TrainConfig
from xnemo.training.preflight import check_data, check_run

_log = logging.getLogger(__name__)


def tune(
    config: TrainConfig,
    space: str | Path,
    data: str | Sequence[str],
    run: str,
    *,
    runs_dir: str | Path = "runs",
    trials: int = 8,
    scheduler: Scheduler = "asha",
    searcher: SearcherName = "random",
    grace_samples: int | None = None,
    exchange_samples: int | None = None,
    metric: str | None = None,
    mode: Mode = "min",
    address: str | None = None,
    workers: str | int = 1,
    cpus_per_worker: float | None = None,
    use_gpu: bool | None = None,
    concurrent: int | None = None,
    seed: int = 0,
    tracking_uri: str | None = None,
    experiment: str = "xnemo",
    on_progress: ReportTrials | None = None,
) -> TuneResult:
    """Train a recipe with several draws of its settings and rank them.

    The same call again resumes the search: trials that ended are kept, the others resume from their
    checkpoints, with their recorded settings.

    Args:
        config: the recipe; ``config.samples`` is the length of a trial.
        space: YAML file; see `pipelines.tune.search_space`.
        data: folders or URLs written by `xnemo preprocess`.
        run: name of the search; its folder is ``runs_dir/run``.
        runs_dir: folder of all runs.
        trials: number of draws; a `grid` is run completely, this many times.
        scheduler: "asha" stops trials early that are worse than most at the same sample. "pbt"
            (population-based training) has the worst trials go on from the weights and optimizers
            of the best ones with changed settings.
        searcher: "random" draws, or "optuna" (a Bayesian search) by the measurements so far.
        grace_samples: asha stops no trial earlier; None for a tenth of the length.
        exchange_samples: samples between exchanges of pbt; None for a fifth of the length.
        metric: the metric to compare; None for the validation loss if the recipe validates, else
            the diffusion loss, which does not depend on the weights of the other losses.
        mode: whether the least or the largest value wins.
        address, workers, cpus_per_worker, use_gpu: of each trial; see `pipelines.train.job.train`.
        concurrent: trials at the same time; None for as many as the cluster has room for.
        seed: seed of the draws.
        tracking_uri: MLflow store; each trial is a child run of the search's run.
        experiment: MLflow experiment.
        on_progress: called with a message, the trials that ended, and the number of trials.

    Raises:
        UserError: the input is unusable, or all trials failed.
    """
    drawn = read_space(Path(space), config)
    metric = metric or ("validation_loss" if config.validation.every_samples else "diffusion")
    if metric == "loss" and any(name.startswith("loss.") for name in drawn):
        raise UserError(
            "metric 'loss' is a sum whose weights the search changes",
            "compare diffusion or validation_loss",
        )
    if trials < 1:
        raise UserError(f"trials is {trials}", "set it to 1 or more")
    total = count_trials(drawn, trials)
    exchange = None
    if scheduler == "pbt":
        if total < 2:
            raise UserError("one trial is no population", "set trials to 2 or more")
        check_changeable(drawn)
        exchange = round_samples(config.samples, config.global_batch, exchange_samples)
        config = _with_kept_checkpoints(config, exchange)
    elif exchange_samples is not None:
        raise UserError(
            f"exchange_samples is {exchange_samples} and the scheduler {scheduler}",
            "use it with the scheduler pbt",
        )
    if searcher == "optuna":
        check_optuna(drawn, scheduler)
    _check_records(Path(runs_dir) / run, drawn)
    roots = [data] if isinstance(data, str) else list(data)
    # Unusable input fails here, not in every trial.
    count = parse_workers(workers)
    plan_batches(config.global_batch, config.micro_batch, 0, count.most)
    if cluster_address(address) is None:
        check_run(config, roots, Path(runs_dir) / run)
    else:
        check_data(config, roots)
    uri = choose_uri(tracking_uri, default_uri(Path(runs_dir)))
    with open_folder(Path(runs_dir) / run) as folder:
        log = RunLog(folder)
        key = log.start(name=run, experiment=experiment)
        log.params({f"space.{name}": f"{draw} {values}" for name, (draw, values) in drawn.items()})
        sender = Sender(log, uri)
        # Trials look up their parent run when they start.
        sender.wait(20.0)
        status = "FAILED"
        try:
            ended = count_ended(folder, total, metric, config.samples)
            if ended < total:
                with connect(address) as cluster:
                    gpu = uses_gpu(config.engine.device, cluster) if use_gpu is None else use_gpu
                    each = resources_per_worker(count, cluster, cpus_per_worker, gpu)
                    have = {"CPU": cluster.cpus, "GPU": cluster.gpus}
                    room = min(have[name] // (amount * count.most) for name, amount in each.items())
                    job = TrialJob(
                        config=to_dict(_with_own_uploads(config, run)),
                        data=roots,
                        runs_dir=str(folder),
                        workers=workers,
                        cpus=each["CPU"],
                        gpu=use_gpu,
                        uri=uri,
                        experiment=experiment,
                        parent=key,
                        metric=metric,
                        exchange=exchange,
                        cwd=os.getcwd(),
                    )
                    plan = TrialPlan(
                        space=drawn,
                        trials=trials,
                        scheduler=scheduler,
                        searcher=searcher,
                        grace_samples=grace_samples,
                        metric=metric,
                        mode=mode,
                        concurrent=concurrent or max(1, int(room)),
                        seed=seed,
                        ended=ended,
                    )
                    run_trials(job, plan, config.samples, on_progress)
            result = rank_trials(config, drawn, folder, metric, mode)
            _record(log, result)
            status = "FINISHED"
        finally:
            _close_trials(folder, uri)
            log.end(status)
            sender.close()
            log.close()
    return result


def _with_own_uploads(config: TrainConfig, run: str) -> TrainConfig:
    """Upload below the name of the search: the names of trials are the same in every search."""
    url = config.checkpoint.upload
    if url is None:
        return config
    return override(config, {"checkpoint.upload": f"{url.rstrip('/')}/{run}"})


def _with_kept_checkpoints(config: TrainConfig, exchange: int) -> TrainConfig:
    """Keep checkpoints until other trials had the time to take them over: two rounds."""
    each = math.ceil(exchange / config.checkpoint.every_samples)
    return override(
        config, {"checkpoint.keep_last": max(config.checkpoint.keep_last, 2 * each + 1)}
    )


def _check_records(folder: Path, space: Space) -> None:
    """Require that the trials of an earlier call drew from the same settings."""
    for trial in read_trials(folder):
        if trial.settings.keys() != space.keys():
            raise UserError(
                f"search {folder.name} varies {', '.join(sorted(trial.settings))}, and the space "
                f"{', '.join(sorted(space))}",
                "give the same settings, or choose another --run name",
            )


def _record(log: RunLog, result: TuneResult) -> None:
    best = result.trials[0]
    log.params({f"best.{name}": value for name, value in best.settings.items()})
    log.tags({"best.trial": best.name})
    assert best.value is not None
    log.metrics(best.samples_seen, {f"best.{result.metric}": best.value})
    for file in (result.table, result.plot, result.settings):
        log.artifact(file)


def _close_trials(folder: Path, uri: str) -> None:
    """End the run logs of trials that the scheduler killed."""
    for run_dir in sorted(folder.glob("trial-*")):
        if not (run_dir / "log.jsonl").is_file():
            continue
        log = RunLog(run_dir)
        if not log.ended:
            log.end("KILLED")
        log.close()
        try:
            sync(run_dir, uri)
        except UserError as error:
            # The store does not answer for the other trials either.
            _log.warning("%s", error)
            return
