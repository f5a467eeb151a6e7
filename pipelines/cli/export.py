"""`xnemo export`: a model in the layout of another program."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipelines.cli import options as opt


def export(
    model: opt.Model,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.")],
    weights: Annotated[
        Literal["ema", "raw"], typer.Option(help="Averaged weights, or the last ones.")
    ] = "ema",
    layout: Annotated[
        Literal["official", "diffusers"],
        typer.Option(help="The authors' four checkpoint files, or an XNeMoPipeline folder."),
    ] = "official",
) -> None:
    """Write a model for the authors' code, or as a diffusers pipeline."""
    from pipelines.terminal.report import quoted, show_facts, show_next
    from xnemo import XNeMoPipeline, load_model
    from xnemo.model.loading.official import export_official

    loaded = load_model(model, weights)
    if layout == "official":
        export_official(loaded.networks, directory)
        show_facts("exported", {"folder": directory, "layout": "the authors' checkpoint files"})
        start = ("xnemo", "train", "RECIPE", "--init-from", directory)
        show_next(quoted(*start, "--data", "SHARDS", "--run", "NAME"))
        return
    XNeMoPipeline.from_networks(loaded.networks, loaded.diffusion).save_pretrained(directory)
    show_facts("exported", {"folder": directory, "layout": "a diffusers pipeline"})
    loading = f"from xnemo import XNeMoPipeline; XNeMoPipeline.from_pretrained({str(directory)!r})"
    show_next(quoted("python", "-c", loading))
