"""`xnemo inspect`: what is in a file or folder."""

from typing import Annotated

import typer


def inspect(
    path: Annotated[
        str, typer.Argument(help="Shards, a bundle, a run, a tar, a video or an image.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what is in a folder of shards, a bundle, a run, a tar, a video or an image."""
    from pipelines.inspect.examine import inspect as run
    from pipelines.terminal.report import console

    console.print(run(path, as_json=as_json))
