"""`xnemo doctor`: what this machine has and what a recipe requires."""

from typing import Annotated

import typer

from pipelines.cli import options as opt
from pipelines.cli.settings import configure

_STYLES = {"ok": "green", "warn": "yellow", "missing": "red"}


def doctor(
    recipe: Annotated[
        str | None, typer.Argument(help="Also check this recipe: memory, time, weights.")
    ] = None,
    overrides: opt.Overrides = None,
    gpu: Annotated[
        str | None, typer.Option(metavar="NAME", help="GPU to check it for, such as H100.")
    ] = None,
    config: opt.ConfigFile = None,
    print_config: opt.PrintConfig = False,
) -> int:
    """Check this machine: what is installed, what is missing, and how to fix it."""
    from rich.table import Table
    from rich.text import Text

    from pipelines.doctor import run_doctor
    from pipelines.terminal.report import as_called, console, show_next
    from preprocessing.errors import UserError
    from xnemo.recipes import get_recipe

    if recipe is None:
        if print_config or overrides or config:
            raise UserError("settings are given without a recipe", "give RECIPE, such as tiny")
        settings = None
    else:
        settings = configure(get_recipe(recipe), config, overrides, print_config=print_config)
    checks = run_doctor(settings, gpu)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        # A remedy may be several commands.
        fix = "; ".join(map(as_called, check.remedy.split("; ")))
        text = f"{check.found}\n→ {fix}" if fix else check.found
        table.add_row(Text(check.state, style=_STYLES[check.state]), check.name, Text(text))
    console.print(table)
    if any(check.state == "missing" for check in checks):
        return 1
    show_next("xnemo demo", "xnemo preprocess VIDEOS OUT")
    return 0
