"""`xnemo train`: a recipe trained through Ray Train."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipelines.cli import options as opt
from pipelines.cli.settings import configure, print_and_exit

if TYPE_CHECKING:
    from pipelines.train.job import TrainResult
    from pipelines.train.progress import TrainProgress


def train(
    recipe: opt.RecipeName,
    data: opt.Shards,
    run: opt.RunName,
    overrides: opt.Overrides = None,
    runs_dir: opt.RunsDir = opt.RUNS_DIR,
    resume: Annotated[
        Literal["auto", "must", "never"],
        typer.Option(help="Resume a run of this name: if there is one, required, or refused."),
    ] = "auto",
    max_steps: Annotated[
        int | None,
        typer.Option(min=1, help="Stop after N optimiser steps, in place of `samples`."),
    ] = None,
    workers: Annotated[
        str, typer.Option(metavar="N|MIN:MAX", help="Workers; a range is elastic.")
    ] = "1",
    init_from: Annotated[
        str | None,
        typer.Option(metavar="WEIGHTS", help="Bundle, SD 1.x or official files to start from."),
    ] = None,
    champion: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Served bundle of a series of runs --run-0001, ...: start from it, and replace it "
            "if the new one is better.",
        ),
    ] = None,
    metric: opt.PromotionMetric = "motion_correlation",
    max_failures: Annotated[
        int, typer.Option(min=-1, help="Worker failures to recover from; -1 for any number.")
    ] = 3,
    tracking_uri: opt.TrackingUri = None,
    address: opt.Address = None,
    config: opt.ConfigFile = None,
    print_config: opt.PrintConfig = False,
) -> int:
    """Train a recipe; the same command again resumes."""
    from pipelines.terminal import EXIT_INTERRUPTED
    from pipelines.terminal.live_progress import live_progress
    from pipelines.terminal.report import quoted, show_facts, show_next
    from pipelines.train.job import train as start
    from xnemo.recipes import get_recipe
    from xnemo.training.config import with_max_steps

    settings = configure(get_recipe(recipe), config, overrides, {"init_from": init_from})
    samples_given = any(word.startswith("samples=") for word in overrides or ())
    settings = with_max_steps(settings, max_steps, samples_given=samples_given)
    if print_config:
        print_and_exit(settings)
    options: dict[str, Any] = {
        "runs_dir": runs_dir,
        "address": address,
        "workers": workers,
        "max_failures": max_failures,
        "resume": resume,
        "tracking_uri": tracking_uri,
    }
    with live_progress() as report:

        def on_progress(at: "TrainProgress") -> None:
            report("train", at.samples_seen, at.samples, _progress_note(at))

        decision = None
        if champion is None:
            result = start(settings, data, run, **options, on_progress=on_progress)
        else:
            from pipelines.promote.series import train_series

            result, decision = train_series(
                settings, data, run, champion, metric=metric, **options, on_progress=on_progress
            )
    show_facts(f"run {result.run_dir.name}", _facts(result))
    if decision is not None:
        show_facts(f"champion {champion}", decision.facts(result.run_dir))
    if result.stopped:
        # A scheduler restarts the run on this status.
        return EXIT_INTERRUPTED
    show_next(
        quoted("xnemo", "inspect", result.bundle),
        quoted(
            "xnemo",
            "animate",
            "PORTRAIT",
            "DRIVING",
            "--model",
            result.bundle,
            "-o",
            "animated.mp4",
        ),
        quoted("xnemo", "ui", "--model", result.bundle),
        quoted("mlflow", "ui", "--backend-store-uri", result.tracking_uri),
    )
    return 0


def _progress_note(at: "TrainProgress") -> str:
    shown = [f"{name} {at.metrics[name]:.4g}" for name in _SHOWN if name in at.metrics]
    return " ".join([*shown, *([at.message] if at.message else [])]) or at.phase


_SHOWN = ("loss", "samples_per_s")


def _facts(result: "TrainResult") -> dict[str, object]:
    loss = result.metrics.get("loss")
    facts: dict[str, object] = {
        "bundle": result.bundle if result.bundle.is_dir() else "none yet",
        "samples": f"{result.samples_seen:,}" + (" (stopped early)" if result.stopped else ""),
        "loss": "unknown" if loss is None else f"{loss:.4g}",
        "tracked in": result.tracking_uri,
        "time": f"{result.seconds:.1f} s",
    }
    if result.unsent:
        facts["not yet in MLflow"] = f"{result.unsent} records; run xnemo sync {result.run_dir}"
    return facts
