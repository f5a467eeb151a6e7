"""`xnemo tune`: a search over a recipe's settings."""

from pathlib import Path
from typing import Annotated

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
    workers: Annotated[str, typer.Option(metavar="N", help="Workers of each trial.")] = "1",
    concurrent: Annotated[
        int | None, typer.Option(min=1, help="Parallel trials. Default: as many as fit.")
    ] = None,
    tracking_uri: opt.TrackingUri = None,
    address: opt.Address = None,
    config: opt.ConfigFile = None,
    print_config: opt.PrintConfig = False,
) -> int:
    """Search a recipe's settings with Ray Tune; poor trials stop early (ASHA)."""
    from pipelines.terminal.live_progress import live_progress
    from pipelines.terminal.report import console, quoted, show_facts, show_next
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
            address=address,
            workers=workers,
            concurrent=concurrent,
            tracking_uri=tracking_uri,
            on_progress=report,
        )
    for trial in result.trials:
        value = "none" if trial.value is None else f"{trial.value:.4g}"
        drawn = ", ".join(f"{name}={drawn}" for name, drawn in trial.settings.items())
        console.print(f"{trial.name}: {result.metric} {value}, {trial.state}; {drawn}")
    show_facts(f"search {run}", {"table": result.table, "runs": result.folder})
    best = result.trials[0]
    bundle = result.folder / best.name / "bundle"
    if bundle.is_dir():
        animate = quoted(
            "xnemo", "animate", "PORTRAIT", "DRIVING", "--model", bundle, "-o", "animated.mp4"
        )
        show_next(animate)
    again = ["xnemo", "train", recipe, *(word for root in data for word in ("--data", root))]
    chosen = [f"{name}={value}" for name, value in best.settings.items()]
    show_next(quoted(*again, "--run", f"{run}-best", *(overrides or []), *chosen))
    return 1 if all(trial.state == "failed" for trial in result.trials) else 0
