"""`xnemo demo` and `xnemo doctor`: everything once, small; and what this machine has."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from pipelines.cli.options import Address, ConfigFile, Overrides, configure
from pipelines.terminal.live_progress import live_progress
from pipelines.terminal.program import as_called
from pipelines.terminal.report import console, show_next

_STYLES = {"ok": "green", "warn": "yellow", "missing": "red"}


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("demo")(demo)
    app.command("doctor")(doctor)


def demo(
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="Folder of everything that is made.")] = Path("demo"),
    workers: Annotated[int, typer.Option(min=1, help="Processes at once.")] = 2,
    address: Address = None,
    config: ConfigFile = None,
) -> None:
    """Make videos, preprocess, train, animate and measure: the whole way, offline, in minutes."""
    from pipelines.demo.run import DemoConfig, run_demo
    from pipelines.demo.summary import show_summary

    settings = configure(DemoConfig(), config, overrides)
    with live_progress() as tell:
        result = run_demo(out, settings, address=address, workers=workers, tell=tell)
    show_summary(result, console)


def doctor(
    recipe: Annotated[
        str | None, typer.Argument(help="Also judge this recipe: memory, time, weights.")
    ] = None,
    overrides: Overrides = None,
    gpu: Annotated[
        str | None, typer.Option(metavar="NAME", help="GPU to judge it for, such as H100.")
    ] = None,
    config: ConfigFile = None,
) -> int:
    """Say what this machine has for the work, what is missing, and what mends it."""
    from pipelines.doctor import run_doctor
    from xnemo.recipes import get_recipe

    settings = None if recipe is None else configure(get_recipe(recipe), config, overrides)
    checks = run_doctor(settings, gpu)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        # One remedy may be several commands; each is to reach this installation's programs.
        remedy = "; ".join(map(as_called, check.remedy.split("; ")))
        mended = f"\n→ {remedy}" if remedy else ""
        table.add_row(
            Text(check.state, style=_STYLES[check.state]), check.name, Text(check.found + mended)
        )
    console.print(table)
    if any(check.state == "missing" for check in checks):
        return 1
    show_next("xnemo demo", "xnemo preprocess VIDEOS OUT")
    return 0
