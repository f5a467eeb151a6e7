"""`xnemo recipes`: the training recipes and their settings."""

from typing import Annotated

import typer

from pipelines.cli.settings import to_yaml


def recipes(
    name: Annotated[
        str | None, typer.Argument(help="Print this recipe's settings as YAML.")
    ] = None,
) -> None:
    """List the training recipes, or print one with all its settings."""
    from pipelines.terminal.report import show_facts, show_next
    from xnemo.recipes import RECIPES, get_recipe

    if name is not None:
        print(to_yaml(get_recipe(name)), end="")
        return
    show_facts("recipes", {key: recipe.description for key, recipe in RECIPES.items()})
    show_next("xnemo recipes tiny", "xnemo train tiny --data SHARDS --run NAME")
