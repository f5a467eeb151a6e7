"""`xnemo evaluate`: measures of a trained model."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli import options as opt
from pipelines.cli.settings import configure


def evaluate(
    model: Annotated[Path, typer.Argument(help="Bundle of a trained model, or builtin.")],
    source: Annotated[
        str | None,
        typer.Argument(
            help="Shards, or a list file of portraits and driving videos; synthetic strangers by "
            "default."
        ),
    ] = None,
    overrides: opt.Overrides = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="JSON to write.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most N clips, pairs or strangers.")
    ] = None,
    detector: opt.DetectorName = None,
    face_model_dir: opt.FaceModelDir = None,
    config: opt.ConfigFile = None,
    print_config: opt.PrintConfig = False,
) -> None:
    """Measure a model: reconstruction error, motion correlation, identity, motion latent."""
    from pipelines.evaluate.job import evaluate as run
    from pipelines.evaluate.settings import EvaluateOptions
    from pipelines.terminal.live_progress import live_progress
    from pipelines.terminal.report import quoted, show_facts, show_next, show_rows

    if source is not None and "=" in source and not Path(source).exists():
        # Without a source the first setting is in its place.
        overrides = [source, *(overrides or ())]
        source = None
    named: dict[str, object] = {
        **opt.detector_settings(detector, face_model_dir),
        "limit": limit,
    }
    options = configure(EvaluateOptions(), config, overrides, named, print_config=print_config)
    with live_progress() as report:
        result = run(model, source, output=output, options=options, on_progress=report)
    for title, rows in result.tables.items():
        show_rows(title, rows)
    written = {} if result.path is None else {"written to": result.path}
    notes = "; ".join(result.facts["notes"])
    show_facts("evaluation", {**result.facts, "notes": notes, **written})
    show_next(
        quoted("xnemo", "animate", "PORTRAIT", "DRIVING", "--model", model, "-o", "animated.mp4")
    )
