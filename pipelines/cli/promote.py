"""`xnemo promote`: a run's bundle becomes the served one if it is better."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli import options as opt

#: Exit status of a bundle that is not better.
EXIT_NOT_BETTER = 3


def promote(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of a run.")],
    champion: Annotated[
        str, typer.Argument(metavar="CHAMPION", help="Folder or URL of the served bundle.")
    ],
    data: opt.Shards,
    metric: opt.PromotionMetric = "motion_correlation",
    tracking_uri: opt.TrackingUri = None,
    address: opt.Address = None,
) -> int:
    """Serve a run's bundle if it animates held-out clips better than the served one."""
    from pipelines.promote.job import promote as decide
    from pipelines.terminal.report import show_facts

    decision = decide(
        run, data, champion, metric=metric, address=address, tracking_uri=tracking_uri
    )
    show_facts(f"champion {champion}", decision.facts(run))
    return 0 if decision.promoted else EXIT_NOT_BETTER
