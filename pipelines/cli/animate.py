"""`xnemo animate`: a portrait animated with the motion of a video."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli import options as opt
from pipelines.cli.settings import configure


def animate(
    portrait: Annotated[Path, typer.Argument(help="Image with a face.")],
    driving: Annotated[Path, typer.Argument(help="Video whose motion is transferred.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="MP4 to write.")],
    overrides: opt.Overrides = None,
    model: opt.AnyModel = "builtin",
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; 1 is off.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the noise.")] = None,
    device: Annotated[
        str | None, typer.Option(help="Device of the networks: auto, cpu, cuda or cuda:N.")
    ] = None,
    decode_chunk: Annotated[
        int | None, typer.Option(min=1, help="Frames the autoencoder decodes at once.")
    ] = None,
    vae: Annotated[
        str | None, typer.Option(metavar="PATH", help="Folder of the autoencoder's weights.")
    ] = None,
    detector: opt.DetectorName = None,
    face_model_dir: opt.FaceModelDir = None,
    max_frames: Annotated[int | None, typer.Option(min=1, help="Animate at most N frames.")] = None,
    config: opt.ConfigFile = None,
    print_config: opt.PrintConfig = False,
) -> None:
    """Animate a portrait with the motion of a video; writes an MP4 and a contact sheet (PNG)."""
    from pipelines.animate.job import AnimateOptions
    from pipelines.animate.job import animate as run
    from pipelines.terminal.live_progress import live_progress
    from pipelines.terminal.report import quoted, show_facts, show_next
    from xnemo.model.builtin import BUILTIN

    named = {
        **opt.detector_settings(detector, face_model_dir),
        "steps": steps,
        "guidance": guidance,
        "seed": seed,
        "device": device,
        "vae": vae,
        "decode_chunk": decode_chunk,
        "max_frames": max_frames,
    }
    options = configure(AnimateOptions(), config, overrides, named, print_config=print_config)
    with live_progress() as report:
        result = run(model, portrait, driving, output, options, on_progress=report)
    show_facts(
        f"{result.frames} frames at {result.fps:g} fps",
        {
            "video": result.output,
            "contact sheet": result.contact_sheet,
            "model": f"{model} (an early one, 64 pixels)" if model == BUILTIN else model,
            "driving face": result.face,
            "audio": result.audio,
            "time": f"{result.seconds:.1f} s",
        },
    )
    show_next(quoted("xnemo", "inspect", result.output))
