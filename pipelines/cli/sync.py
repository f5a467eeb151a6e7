"""`xnemo sync`: send a run's pending records to MLflow."""

from pathlib import Path
from typing import Annotated

import typer


def sync(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a run.")],
    uri: Annotated[
        str | None, typer.Argument(help="MLflow tracking URI. Default: the run's own.")
    ] = None,
) -> None:
    """Send records of a run to MLflow that it has not received yet."""
    from pipelines.terminal.report import show_facts
    from pipelines.tracking.sync import sync as run

    result = run(run_dir, uri)
    facts = {"to": result.uri, "run": result.run_id, "refused": result.refused}
    show_facts(f"{result.sent} records sent", facts)
