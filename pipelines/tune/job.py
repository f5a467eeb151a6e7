"""Search over a recipe's settings: trials through Ray Tune, each a training run of its own."""

import csv
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipelines.cluster.connect import connect
from pipelines.cluster.resources import parse_workers, resources_per_worker
from pipelines.tracking import Journal, Sender, choose_uri, default_uri, sync
from pipelines.tracking.sender import wait_until_sent
from pipelines.train.run_folder import open_folder
from pipelines.tune.search_space import read_space
from pipelines.tune.trials import Scheduler, TellTrials, TrialPlan, run_trials
from preprocessing.errors import UserError
from xnemo.config import override, to_dict
from xnemo.data.batch_plan import plan_batches
from xnemo.data.clip_table import open_clips
from xnemo.training.config import TrainConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """One draw of settings and what came of it."""

    # Name of its run, a folder beside the others.
    name: str
    # The settings drawn, by dotted name.
    settings: dict[str, Any]
    # Last value of the metric; None where the trial failed before its first.
    value: float | None
    # Position it reached, in samples.
    samples_seen: int
    # "finished", "stopped" by the scheduler, or "failed".
    state: str
    # Why it failed.
    error: str | None = None


@dataclass(frozen=True)
class TuneResult:
    """What a search found."""

    # Folder of the search, with a folder for each trial.
    folder: Path
    # The metric that was compared, and whether its least or its largest value wins.
    metric: str
    mode: str
    # All trials, best first.
    trials: list[Trial]
    # The recipe with the best trial's settings.
    best: TrainConfig
    # Table of all trials.
    table: Path


def tune(
    config: TrainConfig,
    space: str | Path,
    data: str | Sequence[str],
    search: str,
    *,
    runs_dir: str | Path = "runs",
    trials: int = 8,
    scheduler: Scheduler = "asha",
    grace_samples: int | None = None,
    metric: str | None = None,
    mode: Literal["min", "max"] = "min",
    address: str | None = None,
    workers: str | int = 1,
    cpus_per_worker: float | None = None,
    use_gpu: bool | None = None,
    concurrent: int | None = None,
    seed: int = 0,
    tracking_uri: str | None = None,
    experiment: str = "xnemo",
    on_progress: TellTrials | None = None,
) -> TuneResult:
    """Train a recipe with several draws of its settings and say which did best.

    Draws are a function of `seed`, so the same call again goes on: trials that are finished are
    taken as they are, others resume from their checkpoints.

    Args:
        config: the recipe; `config.samples` is the most a trial may see.
        space: YAML file; see `pipelines.tune.search_space`.
        data: folders or URLs that `xnemo preprocess` wrote.
        search: name of the search; its folder is ``runs_dir/search``.
        runs_dir: folder of all runs.
        trials: draws; a `grid` is gone through whole, so many times.
        scheduler: "asha" stops trials early that do worse than most at the same sample.
        grace_samples: no trial is stopped before; None for a tenth of the length.
        metric: what to compare; None for the validation loss where the recipe validates, else the
            diffusion loss, which does not change with the weights of the other losses.
        mode: whether the least or the largest value wins.
        address, workers, cpus_per_worker, use_gpu: as in `pipelines.train.job.train`, a trial.
        concurrent: trials at once; None for as many as there is room for.
        seed: decides the draws.
        tracking_uri: MLflow store; the search is a run, and each trial a run below it.
        experiment: MLflow experiment.
        on_progress: told a line of text, trials done, and trials in all.

    Raises:
        UserError: the input does not suit, or every trial failed.
    """
    drawn = read_space(Path(space), config)
    metric = metric or ("validation_loss" if config.validation.every_samples else "diffusion")
    if metric == "loss" and any(name.startswith("loss.") for name in drawn):
        raise UserError(
            "metric 'loss' is the sum of what the search changes the weights of",
            "compare diffusion or validation_loss",
        )
    if trials < 1:
        raise UserError(f"trials is {trials}", "ask for one or more")
    # Better refused now than by every trial.
    count = parse_workers(workers)
    plan_batches(config.global_batch, config.micro_batch, 0, count.most)
    open_clips([data] if isinstance(data, str) else data, config.data.filter)
    uri = choose_uri(tracking_uri, default_uri(Path(runs_dir)))
    with open_folder(Path(runs_dir) / search) as folder:
        journal = Journal(folder)
        key = journal.start(name=search, experiment=experiment)
        journal.params(
            {f"space.{name}": f"{draw} {values}" for name, (draw, values) in drawn.items()}
        )
        sender = Sender(journal, uri)
        # Trials look for their parent when they begin; without it they are found by its key.
        wait_until_sent(sender, 20.0)
        status = "FAILED"
        try:
            with connect(address) as cluster:
                gpu = use_gpu
                if gpu is None:
                    gpu = cluster.gpus > 0 and config.engine.device != "cpu"
                each = resources_per_worker(count, cluster, cpus_per_worker, gpu)
                have = {"CPU": cluster.cpus, "GPU": cluster.gpus}
                room = min(have[name] // (amount * count.most) for name, amount in each.items())
                at_once = concurrent or max(1, int(room))
                job = {
                    "config": to_dict(_below(config, search)),
                    "data": [data] if isinstance(data, str) else list(data),
                    "runs_dir": str(folder),
                    "workers": workers,
                    "cpus": each["CPU"],
                    "gpu": use_gpu,
                    "uri": uri,
                    "experiment": experiment,
                    "parent": key,
                    "metric": metric,
                    "cwd": os.getcwd(),
                }
                settings = TrialPlan(
                    drawn, trials, scheduler, grace_samples, metric, mode, at_once, seed
                )
                results = run_trials(job, settings, config.samples, folder, on_progress)
            result = _conclude(config, results, folder, metric, mode)
            _record(journal, result)
            status = "FINISHED"
        finally:
            _close_trials(folder, uri)
            journal.end(status)
            sender.close()
            journal.close()
    return result


def _below(config: TrainConfig, search: str) -> TrainConfig:
    """Put uploads below the search's name: trials are called alike in every search."""
    url = config.checkpoint.upload
    if url is None:
        return config
    return override(config, {"checkpoint.upload": f"{url.rstrip('/')}/{search}"})


def _conclude(
    config: TrainConfig, results: Any, folder: Path, metric: str, mode: str
) -> TuneResult:
    """Put the trials in order and write their table."""
    trials = []
    for result in results:
        metrics = result.metrics or {}
        error = _one_line(result.error) if result.error else None
        seen = int(metrics.get("samples_seen", 0))
        state = "failed" if error else "finished" if seen >= config.samples else "stopped"
        name = Path(result.path).name
        trials.append(Trial(name, dict(result.config), metrics.get(metric), seen, state, error))
    sign = 1 if mode == "min" else -1
    trials.sort(key=lambda t: (t.value is None or t.error is not None, sign * (t.value or 0)))
    if not trials or trials[0].value is None:
        reason = trials[0].error if trials else "none was started"
        raise UserError(f"all {len(trials)} trials failed: {reason}", "mend that and run again")
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


def _record(journal: Journal, result: TuneResult) -> None:
    best = result.trials[0]
    journal.params({f"best.{name}": value for name, value in best.settings.items()})
    journal.tags({"best.trial": best.name})
    assert best.value is not None
    journal.metrics(best.samples_seen, {f"best.{result.metric}": best.value})
    journal.artifact(result.table)


def _close_trials(folder: Path, uri: str) -> None:
    """End the records of trials that the scheduler killed, which could not do it themselves."""
    for run_dir in sorted(folder.glob("trial-*")):
        if not (run_dir / "journal.jsonl").is_file():
            continue
        journal = Journal(run_dir)
        if not journal.ended:
            journal.end("KILLED")
        journal.close()
        try:
            sync(run_dir, uri)
        except UserError as error:
            # The store is away for all of them then.
            log.warning("%s", error)
            return


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
