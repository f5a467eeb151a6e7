"""`xnemo train`, `tune`, `recipes` and `sync`: from shards to a bundle, followed in MLflow."""

from pathlib import Path
from typing import Annotated

import typer
import yaml

from pipelines.cli.options import (
    RUNS,
    Address,
    ConfigFile,
    Overrides,
    RecipeName,
    RunName,
    RunsFolder,
    Shards,
    TrackingUri,
    configure,
)
from pipelines.terminal.live_progress import live_progress
from pipelines.terminal.report import EXIT_INTERRUPTED, console, quoted, show_facts, show_next


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("recipes")(recipes)
    app.command("train")(train)
    app.command("tune")(tune)
    app.command("sync")(sync)


def recipes(
    name: Annotated[
        str | None, typer.Argument(help="Print this recipe's settings as YAML.")
    ] = None,
) -> None:
    """List the training recipes, or print one with all its settings."""
    from xnemo.config import to_dict
    from xnemo.recipes import RECIPES, get_recipe

    if name is None:
        show_facts("recipes", {key: recipe.description for key, recipe in RECIPES.items()})
        show_next("xnemo recipes tiny", "xnemo train tiny --data SHARDS --run NAME")
        return
    print(yaml.safe_dump(to_dict(get_recipe(name)), sort_keys=False), end="")


def train(
    recipe: RecipeName,
    data: Shards,
    run: RunName,
    overrides: Overrides = None,
    out: RunsFolder = RUNS,
    workers: Annotated[
        str, typer.Option(metavar="N|MIN:MAX", help="Workers; a range shrinks and grows.")
    ] = "1",
    init_from: Annotated[
        str | None,
        typer.Option(metavar="WEIGHTS", help="Bundle, SD 1.x or official files to start from."),
    ] = None,
    tracking_uri: TrackingUri = None,
    max_failures: Annotated[
        int, typer.Option(min=-1, help="Lost workers to make up for; -1 for any number.")
    ] = 3,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Refuse to go on with a run of that name.")
    ] = False,
    address: Address = None,
    config: ConfigFile = None,
) -> int:
    """Train a recipe through Ray Train; the same command again goes on where it stopped."""
    from pipelines.train.job import train as start
    from pipelines.train.progress import TrainProgress
    from xnemo.recipes import get_recipe

    settings = configure(get_recipe(recipe), config, overrides, {"init_from": init_from})
    with live_progress() as tell:

        def on_progress(at: TrainProgress) -> None:
            numbers = [
                f"{name} {at.metrics[name]:.4g}"
                for name in ("loss", "samples_per_s")
                if name in at.metrics
            ]
            words = " ".join([*numbers, *([at.message] if at.message else [])])
            tell("train", at.samples_seen, at.samples, words or at.phase)

        result = start(
            settings,
            data,
            run,
            runs_dir=out,
            address=address,
            workers=workers,
            max_failures=max_failures,
            resume="never" if fresh else "auto",
            tracking_uri=tracking_uri,
            on_progress=on_progress,
        )
    loss = result.metrics.get("loss")
    facts = {
        "bundle": result.bundle if result.bundle.is_dir() else "none yet",
        "samples": f"{result.samples_seen:,}" + (" (stopped early)" if result.stopped else ""),
        "loss": "unknown" if loss is None else f"{loss:.4g}",
        "tracked in": result.tracking_uri,
        "took": f"{result.seconds:.1f} s",
    }
    if result.unsent:
        facts["not yet in MLflow"] = f"{result.unsent} records; run xnemo sync {result.run_dir}"
    show_facts(f"run {run}", facts)
    if result.stopped:
        # Not done: whoever started it, a person or a scheduler, is to start it again.
        return EXIT_INTERRUPTED
    show_next(
        quoted("xnemo", "inspect", result.bundle),
        quoted("xnemo", "animate", result.bundle, "PORTRAIT", "DRIVING", "-o", "animated.mp4"),
        quoted("xnemo", "ui", result.bundle),
        quoted("mlflow", "ui", "--backend-store-uri", result.tracking_uri),
    )
    return 0


def tune(
    recipe: RecipeName,
    space: Annotated[
        Path, typer.Option("--space", metavar="FILE", help="YAML: dotted names to ranges.")
    ],
    data: Shards,
    search: RunName,
    overrides: Overrides = None,
    out: RunsFolder = RUNS,
    trials: Annotated[int, typer.Option(min=1, help="Draws from the space.")] = 8,
    workers: Annotated[str, typer.Option(metavar="N", help="Workers of each trial.")] = "1",
    concurrent: Annotated[
        int | None, typer.Option(min=1, help="Trials at once; left out, as many as fit.")
    ] = None,
    tracking_uri: TrackingUri = None,
    address: Address = None,
    config: ConfigFile = None,
) -> int:
    """Search settings of a recipe with Ray Tune: poor trials are stopped early (ASHA)."""
    from pipelines.tune.job import tune as start
    from xnemo.recipes import get_recipe

    settings = configure(get_recipe(recipe), config, overrides)
    with live_progress() as tell:
        result = start(
            settings,
            space,
            data,
            search,
            runs_dir=out,
            trials=trials,
            address=address,
            workers=workers,
            concurrent=concurrent,
            tracking_uri=tracking_uri,
            on_progress=lambda stage, done, total: tell(stage, done, total, ""),
        )
    for trial in result.trials:
        value = "none" if trial.value is None else f"{trial.value:.4g}"
        drawn = ", ".join(f"{name}={drawn}" for name, drawn in trial.settings.items())
        console.print(f"{trial.name}: {result.metric} {value}, {trial.state}; {drawn}")
    show_facts(f"search {search}", {"table": result.table, "runs": result.folder})
    best = result.trials[0]
    bundle = result.folder / best.name / "bundle"
    if bundle.is_dir():
        animate = quoted("xnemo", "animate", bundle, "PORTRAIT", "DRIVING", "-o", "animated.mp4")
        show_next(animate)
    again = ["xnemo", "train", recipe, *(word for root in data for word in ("--data", root))]
    chosen = [f"{name}={value}" for name, value in best.settings.items()]
    show_next(quoted(*again, "--run", f"{search}-best", *(overrides or []), *chosen))
    return 1 if all(trial.state == "failed" for trial in result.trials) else 0


def sync(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a run.")],
    uri: Annotated[str | None, typer.Argument(help="MLflow tracking URI.")] = None,
) -> None:
    """Send to MLflow what it missed of a run while it was away."""
    from pipelines.tracking.sync import sync as run

    result = run(run_dir, uri)
    show_facts(
        f"{result.sent} records sent",
        {"to": result.uri, "run": result.run_id, "refused": result.refused},
    )
