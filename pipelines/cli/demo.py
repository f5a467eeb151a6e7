"""`xnemo demo`: the whole way once, small and offline."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli import options as opt
from pipelines.cli.settings import configure


def demo(
    overrides: opt.Overrides = None,
    output_dir: Annotated[Path, typer.Option(help="Folder of all results.")] = Path("demo"),
    concurrency: Annotated[int, typer.Option(min=1, help="Parallel processes.")] = 2,
    address: opt.Address = None,
    config: opt.ConfigFile = None,
    print_config: opt.PrintConfig = False,
) -> None:
    """Animate, then make videos, preprocess, fine-tune and compare: offline, in minutes."""
    from pipelines.demo.run import DemoConfig, run_demo
    from pipelines.demo.summary import show_summary
    from pipelines.terminal.live_progress import live_progress
    from pipelines.terminal.report import console

    settings = configure(DemoConfig(), config, overrides, print_config=print_config)
    with live_progress() as report:
        result = run_demo(
            output_dir, settings, address=address, concurrency=concurrency, on_progress=report
        )
    show_summary(result, console)
