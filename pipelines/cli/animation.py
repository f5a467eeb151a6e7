"""`xnemo animate`, `ui`, `evaluate` and `export`: what a trained model is used for."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipelines.cli.options import (
    ConfigFile,
    DetectorName,
    FacesPack,
    Overrides,
    configure,
    detector_settings,
)
from pipelines.terminal.live_progress import live_progress
from pipelines.terminal.report import quoted, show_facts, show_next, show_rows


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("animate")(animate)
    app.command("ui")(ui)
    app.command("evaluate")(evaluate)
    app.command("export")(export)


def animate(
    bundle: Annotated[
        Path, typer.Argument(help="Bundle, folder of the official files, or saved pipeline.")
    ],
    portrait: Annotated[Path, typer.Argument(help="Picture with a face.")],
    driving: Annotated[Path, typer.Argument(help="Video whose motion to take.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="MP4 to write.")],
    overrides: Overrides = None,
    detector: DetectorName = None,
    faces_pack: FacesPack = None,
    max_frames: Annotated[int | None, typer.Option(min=1, help="Make no more frames.")] = None,
    config: ConfigFile = None,
) -> None:
    """Animate a portrait with the motion of a video; writes an MP4 and a contact sheet (PNG)."""
    from pipelines.animate.job import AnimateOptions
    from pipelines.animate.job import animate as run

    named = {**detector_settings(detector, faces_pack), "max_frames": max_frames}
    options = configure(AnimateOptions(), config, overrides, named)
    with live_progress() as tell:
        result = run(
            bundle,
            portrait,
            driving,
            output,
            options,
            on_progress=lambda stage, done, total: tell(stage, done, total, ""),
        )
    show_facts(
        f"{result.frames} frames at {result.fps:g} fps",
        {
            "video": result.output,
            "contact sheet": result.contact_sheet,
            "sound": result.sound,
            "took": f"{result.seconds:.1f} s",
        },
    )
    show_next(quoted("xnemo", "inspect", result.output))


def ui(
    bundle: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    overrides: Overrides = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of this machine; 0 for any free one.")
    ] = 7860,
    out: Annotated[Path, typer.Option(help="Folder of everything that is made.")] = Path(
        "animations"
    ),
    detector: DetectorName = None,
    faces_pack: FacesPack = None,
    config: ConfigFile = None,
) -> None:
    """Serve a page on this machine where a portrait and a video are dropped and animated."""
    from pipelines.animate.job import AnimateOptions
    from pipelines.webui.serve import serve

    named = detector_settings(detector, faces_pack)
    options = configure(AnimateOptions(), config, overrides, named)

    def on_ready(address: str) -> None:
        show_facts("ready", {"page": address, "results": out})
        show_next("open the page in a browser; Ctrl-C here ends it")

    serve(bundle, options, out, port, on_ready)


def evaluate(
    bundle: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    source: Annotated[str, typer.Argument(help="Shards, or a list of portraits and drivers.")],
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option("--output", "-o", help="JSON to write.")] = None,
    detector: DetectorName = None,
    faces_pack: FacesPack = None,
    config: ConfigFile = None,
) -> None:
    """Measure a model: reenactment errors, following, identity, what the motion latent knows."""
    from pipelines.evaluate.job import EvaluateOptions
    from pipelines.evaluate.job import evaluate as run

    named = detector_settings(detector, faces_pack)
    options = configure(EvaluateOptions(), config, overrides, named)
    with live_progress() as tell:
        result = run(
            bundle,
            source,
            out=out,
            options=options,
            on_progress=lambda stage, done, total: tell(stage, done, total, ""),
        )
    for title, rows in result.tables.items():
        show_rows(title, rows)
    written = {} if result.path is None else {"written to": result.path}
    notes = "; ".join(result.facts["notes"])
    show_facts("evaluation", {**result.facts, "notes": notes, **written})
    show_next(quoted("xnemo", "animate", bundle, "PORTRAIT", "DRIVING", "-o", "animated.mp4"))


def export(
    bundle: Annotated[Path, typer.Argument(help="Bundle or saved pipeline.")],
    directory: Annotated[Path, typer.Argument(help="Folder to write.")],
    weights: Annotated[
        Literal["ema", "raw"], typer.Option(help="Averaged weights, or the last ones.")
    ] = "ema",
    layout: Annotated[
        Literal["official", "diffusers"],
        typer.Option(help="The authors' four files, or the folder of an XNeMoPipeline."),
    ] = "official",
) -> None:
    """Write a model for other programs: the authors' own code, or a diffusers pipeline."""
    from xnemo.animation.pipeline_xnemo import XNeMoPipeline
    from xnemo.animation.trained_model import load_trained
    from xnemo.model.loading.official import export_official

    loaded = load_trained(bundle, weights)
    if layout == "official":
        export_official(loaded.networks, directory)
        show_facts("exported", {"folder": directory, "layout": "the authors' checkpoint files"})
        start = ("xnemo", "train", "RECIPE", "--init-from", directory)
        show_next(quoted(*start, "--data", "SHARDS", "--run", "NAME"))
        return
    XNeMoPipeline.from_networks(loaded.networks, loaded.diffusion).save_pretrained(directory)
    show_facts("exported", {"folder": directory, "layout": "a diffusers pipeline"})
    loading = (
        "from xnemo.pipeline_xnemo import XNeMoPipeline; "
        f"XNeMoPipeline.from_pretrained({str(directory)!r})"
    )
    show_next(quoted("python", "-c", loading))
