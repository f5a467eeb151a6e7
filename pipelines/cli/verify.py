"""`xnemo verify`: check a data set against its checksums."""

from typing import Annotated

import typer


def verify(
    out: Annotated[str, typer.Argument(help="Folder or URL that `xnemo preprocess` wrote.")],
) -> int:
    """Compare every file of a finished data set with its checksum."""
    from pipelines.preprocess.verify import verify as run
    from pipelines.terminal.report import show_facts

    result = run(out)
    show_facts(result.title, result.facts())
    return result.exit_code
