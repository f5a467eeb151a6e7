"""`xnemo ui`: a web page that animates portraits."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli import options as opt
from pipelines.cli.settings import configure


def ui(
    overrides: opt.Overrides = None,
    model: opt.AnyModel = "builtin",
    output_dir: Annotated[Path, typer.Option(help="Folder of all results.")] = Path("animations"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any free one.")] = 7860,
    detector: opt.DetectorName = None,
    face_model_dir: opt.FaceModelDir = None,
    config: opt.ConfigFile = None,
    print_config: opt.PrintConfig = False,
) -> None:
    """Serve a web page on this machine that animates a portrait with a video."""
    from pipelines.animate.job import AnimateOptions
    from pipelines.terminal.report import show_facts, show_next
    from pipelines.webui.serve import serve

    named = opt.detector_settings(detector, face_model_dir)
    options = configure(AnimateOptions(), config, overrides, named, print_config=print_config)

    def on_ready(address: str) -> None:
        show_facts("ready", {"page": address, "results": output_dir})
        show_next("open the page in a browser; Ctrl-C stops the server")

    serve(model, options, output_dir, port, on_ready)
