"""Lists the videos of a folder, a file, a list or a URL without opening one."""

import csv
import io
import json
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from preprocessing.errors import UserError
from preprocessing.storage.fsspec_store import find_all
from preprocessing.storage.location import is_url, location_status, object_status

# Extensions that a folder is searched for. A file given by name or in a list may have any.
_EXTENSIONS = {
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".h264", ".hevc", ".m2ts",
    ".m2v", ".m4v", ".mjpeg", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf",
    ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".y4m",
}  # fmt: skip
_LISTS = {".txt", ".csv", ".jsonl", ".list"}


@dataclass(frozen=True, order=True)
class SourceFile:
    """One video as it was found; its content has not been read."""

    # Name in the data set: relative to the folder, or as the list has it.
    name: str
    # Path or URL to open.
    location: str
    # Size in bytes, and a stamp that changes with the content (time stamp or ETag).
    size: int
    stamp: str
    licence: str = ""


@dataclass(frozen=True)
class FoundSources:
    """The videos of a job, sorted by name."""

    files: tuple[SourceFile, ...]
    # Files whose names are not those of videos, counted by extension.
    ignored: dict[str, int]


def find_sources(videos: str | os.PathLike[str], licence: str = "") -> FoundSources:
    """List the videos in a folder (and below), a list file, a URL, or the one file named.

    A list is a text file with one path or URL per line, a CSV with a column `source`, or JSON lines
    with a field `source`; the last two may have `licence`. Relative paths are relative to the list.

    Args:
        videos: the folder, file, list or fsspec URL.
        licence: licence of the sources, where a list gives none of its own.

    Raises:
        UserError: there is no video at this place, or the place cannot be read.
    """
    given = os.fspath(videos)
    if is_url(given):
        return _in_store(given, licence)
    path = Path(given).expanduser()
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise UserError(
            f"no videos at {given}: {error.strerror}", "name a folder, a video or a list of videos"
        ) from error
    if stat.S_ISDIR(mode):
        return _in_folder(path, licence)
    if path.suffix.lower() in _LISTS and stat.S_ISREG(mode):
        return _in_list(path, licence)
    return FoundSources((_local(path.absolute(), path.name, licence),), {})


def _in_folder(root: Path, licence: str) -> FoundSources:
    files: list[SourceFile] = []
    ignored: Counter[str] = Counter()
    for path in _walk(root.absolute(), set()):
        is_named_so = path.suffix.lower() in _EXTENSIONS or os.path.isdir(path)
        if is_named_so and not _is_hidden(path):
            files.append(_local(path, os.path.relpath(path, root.absolute()), licence))
        else:
            ignored["(hidden)" if _is_hidden(path) else path.suffix.lower() or "(none)"] += 1
    if not files:
        raise UserError(f"{root} holds no videos", "name a folder with .mp4, .mov, .mkv, ... files")
    return FoundSources(tuple(sorted(files)), dict(sorted(ignored.items())))


def _walk(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Yield all files, and folders that are named like a video or cannot be listed."""
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        if not seen:
            message = f"cannot list {folder}: {error.strerror}"
            raise UserError(message, "make it readable") from error
        # Probing it later puts the reason into the quarantine table.
        yield folder
        return
    # Symbolic links may form cycles.
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    for entry in entries:
        path = Path(entry.path)
        # Unlike entry.is_dir(), this never raises for a link to itself or a folder that may be
        # listed but not entered.
        if os.path.isdir(path):
            if _is_hidden(path):
                continue
            if path.suffix.lower() in _EXTENSIONS:
                yield path
            yield from _walk(path, seen)
        else:
            yield path


def _is_hidden(path: Path) -> bool:
    """Return whether a name is hidden, such as .trash or the ._clip.mp4 of macOS."""
    return path.name.startswith(".") and not path.name.startswith("..")


def _in_list(path: Path, licence: str) -> FoundSources:
    files = []
    for source, own in _read_list(path):
        name = source
        if "://" in source:
            files.append(SourceFile(name, source, *location_status(source), own or licence))
        else:
            files.append(_local((path.parent / source).absolute(), name, own or licence))
    if not files:
        raise UserError(f"the list {path} names no videos", "write one path or URL per line")
    unique = {file.name: file for file in files}
    return FoundSources(tuple(sorted(unique.values())), {})


def _read_list(path: Path) -> Iterator[tuple[str, str]]:
    try:
        text = path.read_text()
        if path.suffix.lower() == ".csv":
            for row in csv.DictReader(io.StringIO(text)):
                yield row["source"], row.get("licence") or ""
        elif path.suffix.lower() == ".jsonl":
            for line in filter(str.strip, text.splitlines()):
                item = json.loads(line)
                yield item["source"], item.get("licence") or ""
        else:
            for line in text.splitlines():
                if line.strip() and not line.startswith("#"):
                    yield line.strip(), ""
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise UserError(
            f"cannot read the list {path}: {error}", "docs/data.md describes its format"
        ) from error
    except (KeyError, TypeError) as error:
        raise UserError(f"the list {path} has no column 'source'", "add one") from error


def _local(path: Path, name: str, licence: str) -> SourceFile:
    # A name on disk need not be valid text; in a table it must be.
    name = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return SourceFile(name, str(path), *location_status(str(path)), licence)


def _in_store(url: str, licence: str) -> FoundSources:
    import fsspec

    try:
        filesystem, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        found = find_all(filesystem, root)
    except (ImportError, ValueError) as error:
        raise UserError(f"cannot open {url}: {error}", "install its fsspec support") from error
    except OSError as error:
        raise UserError(f"cannot list {url}: {error}", "check the URL and credentials") from error
    files, ignored = [], Counter[str]()
    for path, info in found.items():
        suffix = Path(path).suffix.lower()
        name = os.path.relpath(path, root) if path != root else Path(path).name
        if suffix not in _EXTENSIONS and path != root:
            ignored[suffix or "(none)"] += 1
            continue
        size, stamp = object_status(info)
        files.append(SourceFile(name, filesystem.unstrip_protocol(path), size, stamp, licence))
    if not files:
        raise UserError(f"{url} holds no videos", "name a folder with .mp4, .mov, .mkv, ... files")
    return FoundSources(tuple(sorted(files)), dict(sorted(ignored.items())))
