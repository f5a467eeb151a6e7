"""`xnemo tune`: a search over a recipe's settings."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipelines.cli import options as opt
from pipelines.cli.settings import configure


def tune(
    recipe: opt.RecipeName,
    space: Annotated[
        Path, typer.Option("--space", metavar="FILE", help="YAML: dotted names to ranges.")
    ],
    data: opt.Shards,
    run: opt.RunName,
    overrides: opt.Overrides = None,
    runs_dir: opt.RunsDir = opt.RUNS_DIR,
    trials: Annotated[int, typer.Option(min=1, help="Samples from the search space.")] = 8,
    scheduler: Annotated[
        Literal["asha", "pbt", "none"],
        typer.Option(help="Stop poor trials early, or have them copy good ones, or neither."),
    ] = "asha",
    searcher: Annotated[
        Literal["random", "optuna"], typer.Option(help="How settings are drawn.")
    ] = "random",
    exchange_samples: Annotated[
        int | None,
        typer.Option(min=1, help="Samples between exchanges of pbt. Default: a fifth of a trial."),
    ] = None,
    workers: Annotated[str, typer.Option(metavar="N", help="Workers of each trial.")] = "1",
    concurrent: Annotated[
        int | None, typer.Option(min=1, help="Parallel trials. Default: as many as fit.")
    ] = None,
    tracking_uri: opt.TrackingUri = None,
    address: opt.Address = None,
    config: opt.ConfigFile = None,
    print_config: opt.PrintConfig = False,
) -> int:
    """Search a recipe's settings with Ray Tune; the same command again resumes."""
    from pipelines.terminal.live_progress import live_progress
    from pipelines.terminal.report import quoted, show_facts, show_next, show_rows
    from pipelines.tune.job import tune as start
    from xnemo.recipes import get_recipe

    settings = configure(get_recipe(recipe), config, overrides, print_config=print_config)
    with live_progress() as report:
        result = start(
            settings,
            space,
            data,
            run,
            runs_dir=runs_dir,
            trials=trials,
            scheduler=scheduler,
            searcher=searcher,
            exchange_samples=exchange_samples,
            address=address,
            workers=workers,
            concurrent=concurrent,
            tracking_uri=tracking_uri,
            on_progress=report,
        )
    rows = [
        {
            "trial": trial.name,
            result.metric: trial.value,
            "samples": trial.samples_seen,
            "state": trial.state,
            **trial.settings,
        }
        for trial in result.trials
    ]
    show_rows("trials, best first", rows)
    facts = {"trials": result.states, "table": result.table, "plot": result.plot}
    show_facts(f"search {run}", {**facts, "best settings": result.settings})
    best = result.trials[0]
    bundle = result.folder / best.name / "bundle"
    if bundle.is_dir():
        animate = quoted(
            "xnemo", "animate", "PORTRAIT", "DRIVING", "--model", bundle, "-o", "animated.mp4"
        )
        show_next(animate)
    again = ["xnemo", "train", recipe, *(word for root in data for word in ("--data", root))]
    show_next(quoted(*again, "--run", f"{run}-best", "--config", result.settings))
    return 0
