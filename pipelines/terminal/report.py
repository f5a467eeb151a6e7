"""How a command ends: a small table, where its output is, and what to run next."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.terminal.program import as_called

#: Exit status of a command that was asked to stop before its end, as shells have it.
EXIT_INTERRUPTED = 130

# Names of files and values are printed as they are: what looks like markup in them is none.
console = Console(highlight=False, soft_wrap=True, markup=False)


def show_facts(title: str, facts: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> None:
    """Print names and values in two columns."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in dict(facts).items():
        table.add_row(name, str(value))
    console.print(table)


def show_rows(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print records as a table; numbers to four digits, what is missing as a dash."""
    if not rows:
        return
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*("–" if value is None else _shown(value) for value in row.values()))
    console.print(table)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def show_next(*commands: str, on: Console = console) -> None:
    """Print the commands a person may want now, as this shell finds them."""
    for command in commands:
        on.print(Text.assemble("next: ", (as_called(command), "bold")), soft_wrap=True)


def quoted(*words: object) -> str:
    """Join words into a command line that a shell reads back the same."""
    return shlex.join(str(word) for word in words)
