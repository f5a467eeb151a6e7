"""`xnemo demo` and `xnemo doctor`: what this machine has, and everything once, small."""

import typer


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
