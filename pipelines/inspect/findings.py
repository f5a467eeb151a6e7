"""Result of `xnemo inspect` as plain values, rendered for a terminal or as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pipelines.terminal.report import as_called


@dataclass(frozen=True)
class Findings:
    """Facts and small tables about one object, and useful next commands."""

    # Kind of object: "data set", "bundle", "shard", "video", "image", "weights" ...
    kind: str
    # Path or URL as given.
    path: str
    # Names and values, in the order to print.
    facts: Mapping[str, Any]
    # Titles and rows; every row of a table has the same columns.
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    # Command lines.
    next: tuple[str, ...] = ()

    def as_json(self) -> str:
        """Return the findings as indented JSON."""
        content = {
            "kind": self.kind,
            "path": self.path,
            **{_json_name(name): value for name, value in self.facts.items()},
            **{_json_name(title): list(rows) for title, rows in self.tables.items()},
            "next": list(self.next),
        }
        return json.dumps(content, indent=2, default=str)

    def rendered(self) -> RenderableType:
        """Return the findings as tables for a terminal."""
        parts: list[RenderableType] = [Text(f"{self.kind} {self.path}", style="bold")]
        facts = Table(show_header=False, box=None, pad_edge=False)
        facts.add_column(style="dim", no_wrap=True)
        facts.add_column(overflow="fold")
        for name, value in self.facts.items():
            facts.add_row(name, Text(_shown(value)))
        parts.append(facts)
        for title, rows in self.tables.items():
            if not rows:
                continue
            table = Table(title=title, title_justify="left", box=None, pad_edge=False)
            for column in rows[0]:
                table.add_column(column, overflow="fold")
            for row in rows:
                table.add_row(*(Text(_shown(value)) for value in row.values()))
            parts += [Text(), table]
        parts.append(Text())
        parts += [Text.assemble("next: ", (as_called(command), "bold")) for command in self.next]
        return Group(*parts)


def _json_name(name: str) -> str:
    return name.lower().replace(" ", "_")


def _shown(value: Any) -> str:
    """Return a value as readable text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(item)}" for name, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(_shown(item) for item in value) or "none"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "" if value is None else str(value)
