"""Reads a list of sources as people have it: saved by a spreadsheet, an editor or a script."""

import codecs
import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from preprocessing.errors import UserError

_TABLES, _JSON_LINES = (".csv", ".tsv"), (".jsonl", ".ndjson")
#: Extensions of lists.
LIST_EXTENSIONS = (".txt", ".list", *_TABLES, *_JSON_LINES)

# That of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SEPARATORS = (",", ";", "\t", "|")
_LICENCE = ("licence", "license")
# Taken for text that is not Unicode: what spreadsheets of Western Windows write, and Latin-1 in all
# letters.
GUESSED = "windows-1252"


@dataclass(frozen=True)
class Listed:
    """One source of a list."""

    # Path or URL as written, without blanks around it.
    source: str
    licence: str
    # Its line, or the line where its row ends; the first is 1.
    line: int


@dataclass(frozen=True)
class SourceList:
    """The sources of a list in its order, and the encoding it was read with."""

    sources: tuple[Listed, ...]
    encoding: str


def parse_list(name: str, data: bytes) -> SourceList:
    """Return what a list names.

    A table (`.csv`, `.tsv`) is separated by comma, semicolon, tab or bar; it and JSON lines have
    a column `source` and perhaps `licence`, in any case. Anything else has a path or URL per line.
    Unicode is recognised with and without byte order mark.

    Args:
        name: path or URL of the list; its extension decides the format.
        data: its content.

    Raises:
        UserError: the list cannot be understood; the message names line, encoding or separator.
    """
    text, encoding = _decoded(name, data)
    text = _unix(text)
    if name.lower().endswith(_TABLES):
        listed = _of_table(name, text)
    elif name.lower().endswith(_JSON_LINES):
        listed = _of_json_lines(name, text)
    else:
        # Not `splitlines`, which splits at characters that a path may have.
        lines = enumerate(map(str.strip, text.split("\n")), start=1)
        listed = (Listed(line, "", number) for number, line in lines if line)
    return SourceList(tuple(listed), encoding)


def _decoded(name: str, data: bytes) -> tuple[str, str]:
    """Return the text without byte order mark, and its encoding."""
    marked = next(((mark, encoding) for mark, encoding in _MARKS if data.startswith(mark)), None)
    if marked:
        data, encoding = data[len(marked[0]) :], marked[1]
    elif b"\0" in data:
        # UTF-16 has every other byte of plain letters 0.
        encoding = "utf-16-le" if data[1::2].count(0) > data[::2].count(0) else "utf-16-be"
    else:
        encoding = "utf-8"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8" or marked:
            raise _not_text(name, encoding, error.start) from error
        try:
            return data.decode(GUESSED), GUESSED
        except UnicodeDecodeError:
            raise _not_text(name, "utf-8", error.start) from error
    if "\0" in text:
        raise _not_text(name, encoding, text.index("\0"))
    return text, encoding


def _not_text(name: str, encoding: str, position: int) -> UserError:
    return UserError(
        f"the list {name} is not text in {encoding.upper()} (at byte {position})",
        "save it as UTF-8",
    )


def parse_table(name: str, data: bytes, needed: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a table: the line where each ends, and its cells by column.

    Separated by comma, semicolon, tab or bar; columns in any case and order; other columns are
    ignored.

    Args:
        name: path or URL of the table.
        data: its content.
        needed: columns that every row fills.

    Raises:
        UserError: as for `parse_list`.
    """
    text, _ = _decoded(name, data)
    return list(_table(name, _unix(text), needed))


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _of_table(name: str, text: str) -> Iterator[Listed]:
    for line, cells in _table(name, text, ("source",), _LICENCE):
        yield Listed(cells["source"], cells.get("licence") or cells.get("license") or "", line)


def _table(
    name: str, text: str, needed: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    lines = text.split("\n")
    # The first line that is not empty is the header; Excel may put the separator above it.
    first = next((n for n, line in enumerate(lines) if line.strip(' \t",;|')), 0)
    separators: Sequence[str] = _SEPARATORS
    if lines[first].lower().startswith("sep=") and len(lines[first]) >= 5:
        separators, first = lines[first][4], first + 1
    skipped = first
    rest = "\n".join(lines[first:])
    # A wrong separator may stand in quotes, so mistakes pass here.
    headers = {s: next(csv.reader([lines[first]], delimiter=s), []) for s in separators}
    columns = {s: [cell.strip().lower() for cell in header] for s, header in headers.items()}
    found = [s for s in separators if set(needed) <= set(columns[s])]
    if not found:
        separator = max(separators, key=lambda s: len(headers[s]))
        named = ", ".join(map(repr, headers[separator])) or "nothing"
        missing = next(column for column in needed if column not in columns[separator])
        raise UserError(
            f"the list {name} has no column {missing!r}, but {named} (separated by {separator!r})",
            f"name the column of the paths {missing!r}",
        )
    # A table of one column has no separator: its paths may contain any.
    separator = found[0] if len(columns[found[0]]) > 1 else "\x1f"
    header = columns[found[0]]
    groups = [*([column] for column in needed), *([optional] if optional else [])]
    twice = [group for group in groups if sum(map(header.count, group)) > 1]
    if twice:
        raise UserError(f"the list {name} has two columns {twice[0][0]!r}", "leave one of them")
    rows = _rows(name, rest, separator, skipped)
    next(rows)
    for line, cells in rows:
        where = f"line {line} of the list {name}"
        if not any(cells):
            continue
        if any(cells[len(header) :]):
            raise UserError(
                f"{where} has {len(cells)} cells and its header {len(header)}"
                f" (separated by {separator!r})",
                "put a path that contains the separator in double quotes",
            )
        named_cells = dict(zip(header, cells, strict=False))
        for column in needed:
            if not named_cells.get(column):
                raise UserError(f"{where} has no {column}", "fill the cell or remove the line")
            if "\n" in named_cells[column]:
                raise UserError(
                    f"the {column} that ends in {where} spans lines",
                    "look for a quote that is not closed",
                )
        yield line, {column: named_cells.get(column, "") for column in (*needed, *optional)}


def _rows(name: str, text: str, separator: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the line of each row's end, and its cells without blanks around them."""
    reader = csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True, strict=True)
    try:
        for cells in reader:
            yield skipped + reader.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise UserError(
            f"line {skipped + reader.line_num} of the list {name} cannot be read: {error}",
            "close the quotes, and double those inside a quoted path",
        ) from error


def _of_json_lines(name: str, text: str) -> Iterator[Listed]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"line {number} of the list {name}"
        try:
            item = json.loads(line)
        except ValueError as error:
            raise UserError(
                f"{where} is not JSON: {error}", 'write one {"source": PATH} per line'
            ) from error
        fields = {str(k).lower(): v for k, v in item.items()} if isinstance(item, dict) else {}
        source = fields.get("source")
        if not isinstance(source, str) or not source.strip():
            raise UserError(
                f"{where} has no text in a field 'source'", 'write one {"source": PATH} per line'
            )
        licence = next((fields[word] for word in _LICENCE if fields.get(word)), "")
        yield Listed(source.strip(), str(licence), number)
