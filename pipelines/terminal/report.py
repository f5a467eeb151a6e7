"""Output at the end of a command: tables of results, and the commands to run next."""

import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

# File names and values may look like markup.
console = Console(highlight=False, soft_wrap=True, markup=False)


def show_facts(title: str, facts: Mapping[str, object] | Iterable[tuple[str, object]]) -> None:
    """Print names and values in two columns."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in dict(facts).items():
        table.add_row(name, str(value))
    console.print(table)


def show_rows(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Print records as a table; numbers to four digits, None as a dash."""
    if not rows:
        return
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*("–" if value is None else _shown(value) for value in row.values()))
    console.print(table)


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def show_next(*commands: str, on: Console = console) -> None:
    """Print commands to run next, as they work in this shell."""
    for command in commands:
        on.print(Text.assemble("next: ", (as_called(command), "bold")), soft_wrap=True)


def quoted(*words: object) -> str:
    """Join words into a shell command line."""
    return shlex.join(str(word) for word in words)


def as_called(command: str) -> str:
    """Return a command line that works in this shell: its program by path if PATH lacks it.

    Args:
        command: begins with the bare name of a program, such as ``xnemo`` or ``mlflow``.
    """
    name, space, rest = command.partition(" ")
    # Not resolved: the environment's own folder, not the one its Python links to.
    own = Path(sys.executable).parent / name
    found = shutil.which(name)
    if not own.is_file() or (found and os.path.samefile(found, own)):
        return command
    near = os.path.relpath(own)
    if near.startswith(".."):
        near = str(own)
    elif os.sep not in near:
        near = os.path.join(".", near)
    return f"{shlex.quote(near)}{space}{rest}"
