"""Rooms of the code base and the imports allowed between them.

`ROOMS` is the only place where allowed imports are declared. `tests/unit/test_architecture.py`
compares it with the imports in the source; running this file rewrites the table and the picture of
`docs/architecture.md`.

Usage: python scripts/architecture.py
"""

import ast
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
PACKAGES = ("preprocessing", "xnemo", "pipelines")
_BEGIN, _END = "<!-- rooms: begin -->", "<!-- rooms: end -->"


@dataclass(frozen=True)
class Room:
    """A folder or module, what it holds, and the rooms it may import."""

    name: str
    holds: str
    imports: tuple[str, ...] = ()

    @property
    def package(self) -> str:
        """Return the top-level package."""
        return self.name.split(".")[0]


ROOMS: tuple[Room, ...] = ()  # FILL


def modules() -> dict[str, Path]:
    """Return every module of the three packages with its file."""
    return {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for package in PACKAGES
        for file in sorted((ROOT / package).rglob("*.py"))
    }


def room_of(module: str) -> str | None:
    """Return the most specific room that holds a module; None where there is none."""
    fitting = [r.name for r in ROOMS if module == r.name or module.startswith(r.name + ".")]
    return max(fitting, key=len, default=None)


def room_imports() -> dict[tuple[str, str], list[str]]:
    """Return the imports between rooms in the source, each with the modules that make it."""
    known = modules()
    found: dict[tuple[str, str], list[str]] = {}
    for module, file in known.items():
        here = room_of(module)
        for target in _imported(file, known):
            there = room_of(target)
            if here and there and here != there:
                found.setdefault((here, there), []).append(module)
    return found


def _imported(file: Path, known: dict[str, Path]) -> set[str]:
    """Return our modules that a file imports anywhere, `if TYPE_CHECKING` excepted."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    targets = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                targets.add(name if name in known else node.module)
        elif isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
    return targets & known.keys()


def table() -> str:
    """Return the rooms as a Markdown table, in import order."""
    lines = ["| room | holds | may import |", "|---|---|---|"]
    for room in ROOMS:
        allowed = ", ".join(f"`{name}`" for name in room.imports) or "–"
        lines.append(f"| `{room.name}` | {room.holds} | {allowed} |")
    return "\n".join(lines)


def reduced_edges() -> list[tuple[str, str]]:
    """Return the allowed imports that no chain of other imports implies."""
    below: dict[str, set[str]] = {}
    for room in ROOMS:
        below[room.name] = set().union(*(below[name] | {name} for name in room.imports), set())
    return [
        (room.name, name)
        for room in ROOMS
        for name in room.imports
        if not any(name in below[other] for other in room.imports if other != name)
    ]


def picture() -> str:
    """Return the rooms as an SVG: one column a package, an arrow from importer to imported."""
    width, height, step_x, step_y = 200, 26, 330, 44
    places: dict[str, tuple[int, int]] = {}
    for column, package in enumerate(PACKAGES):
        rooms = [room.name for room in ROOMS if room.package == package]
        for row, name in enumerate(rooms):
            places[name] = (60 + column * step_x, 60 + row * step_y)
    bottom = max(y for _, y in places.values()) + height + 20
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {3 * step_x} {bottom}"'
        ' font-family="sans-serif" font-size="12">',
        '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"'
        ' markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#567"/></marker></defs>',
        f'<rect width="{3 * step_x}" height="{bottom}" fill="#fff"/>',
    ]
    for source, target in reduced_edges():
        (x1, y1), (x2, y2) = places[source], places[target]
        y1, y2 = y1 + height // 2, y2 + height // 2
        if x1 == x2:
            bend = x1 - 12 - min(44, abs(y1 - y2) // 8)
            path = f"M{x1},{y1} C{bend},{y1} {bend},{y2} {x2},{y2}"
        else:
            x2 += width
            middle = (x1 + x2) // 2
            path = f"M{x1},{y1} C{middle},{y1} {middle},{y2} {x2},{y2}"
        out.append(
            f'<path d="{path}" fill="none" stroke="#567" stroke-opacity="0.6" marker-end="url(#a)"/>'
        )
    for column, package in enumerate(PACKAGES):
        x = 60 + column * step_x + width // 2
        out.append(
            f'<text x="{x}" y="36" text-anchor="middle" font-size="16" font-weight="bold">'
            f"{package}/</text>"
        )
    for name, (x, y) in places.items():
        label = name.split(".", 1)[-1].replace(".", "/")
        out.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" fill="#eef3f8"'
            f' stroke="#567"/><text x="{x + width // 2}" y="{y + 17}"'
            f' text-anchor="middle">{label}</text>'
        )
    return "\n".join([*out, "</svg>"]) + "\n"


def page(text: str) -> str:
    """Return the architecture page with the table between its markers replaced."""
    before, rest = text.split(_BEGIN)
    after = rest.split(_END)[1]
    return f"{before}{_BEGIN}\n\n{table()}\n\n{_END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
    PICTURE.write_text(picture())
