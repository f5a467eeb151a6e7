"""Finds the videos a person means by a folder, a file, a list or a URL, without opening one."""

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
from preprocessing.retry import retry
from preprocessing.storage.fsspec_store import find_all

# What a folder is searched for. A file named on its own, or in a list, may be called anything.
_EXTENSIONS = {
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".h264", ".hevc", ".m2ts",
    ".m2v", ".m4v", ".mjpeg", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf",
    ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".y4m",
}  # fmt: skip
_LISTS = {".txt", ".csv", ".jsonl", ".list"}


@dataclass(frozen=True, order=True)
class SourceFile:
    """One video as it was found; nothing in it has been read."""

    # The name in the data set: relative to the folder, or as the list has it.
    name: str
    # Path or URL to open.
    location: str
    # Size in bytes, and what changes when the content does (time stamp or ETag).
    size: int
    stamp: str
    licence: str = ""


@dataclass(frozen=True)
class FoundSources:
    """The videos of a job, by name, and what else lay there."""

    files: tuple[SourceFile, ...]
    # Files that are no videos by their names, counted by extension.
    ignored: dict[str, int]


def find_sources(videos: str | os.PathLike[str], licence: str = "") -> FoundSources:
    """List the videos in a folder (and below), a list file, a URL, or the one file named.

    A list is a text file with a path or URL a line, a CSV with a column `source`, or JSON lines
    with a field `source`; the last two may have `licence`. Relative paths are relative to the list.

    Raises:
        UserError: nothing is there, or no video among it.
    """
    given = os.fspath(videos)
    if "://" in given and not os.path.exists(given):
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


def status_now(location: str) -> tuple[int, str]:
    """Return the size in bytes of a file or object, and what changes when its content does.

    (-1, "missing") where it is not there or cannot be reached.
    """
    if "://" in location and not os.path.exists(location):
        return _store_status(location)
    return _disk_status(Path(location))


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
    """Yield everything that is no folder, and folders that are named like a video or unreadable."""
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        if not seen:
            message = f"cannot list {folder}: {error.strerror}"
            raise UserError(message, "make it readable") from error
        # Opening it says why, in the quarantine table.
        yield folder
        return
    # Links may lead in circles.
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    for entry in entries:
        path = Path(entry.path)
        # Unlike the entry's own method, this never raises: not for a link to itself, nor for what
        # lies in a folder that may be listed and not entered.
        if os.path.isdir(path):
            if _is_hidden(path):
                continue
            if path.suffix.lower() in _EXTENSIONS:
                yield path
            yield from _walk(path, seen)
        else:
            yield path


def _is_hidden(path: Path) -> bool:
    """Tell whether a name asks not to be looked at: .trash, or the ._clip.mp4 that macOS leaves."""
    return path.name.startswith(".") and not path.name.startswith("..")


def _in_list(path: Path, licence: str) -> FoundSources:
    files = []
    for source, own in _read_list(path):
        name = source
        if "://" in source:
            files.append(SourceFile(name, source, *_store_status(source), own or licence))
        else:
            files.append(_local((path.parent / source).absolute(), name, own or licence))
    if not files:
        raise UserError(f"the list {path} names no videos", "write one path or URL a line")
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
            f"cannot read the list {path}: {error}", "docs/data.md tells its form"
        ) from error
    except (KeyError, TypeError) as error:
        raise UserError(f"the list {path} has no column 'source'", "add one") from error


def _local(path: Path, name: str, licence: str) -> SourceFile:
    # A name on disk need not be text, but in a table it has to be.
    name = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return SourceFile(name, str(path), *_disk_status(path), licence)


def _disk_status(path: Path) -> tuple[int, str]:
    try:
        status = path.stat()
    except OSError:
        # Opening it says why, in the quarantine table.
        return -1, "missing"
    return status.st_size, str(status.st_mtime_ns)


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
        size, stamp = _status_of(info)
        files.append(SourceFile(name, filesystem.unstrip_protocol(path), size, stamp, licence))
    if not files:
        raise UserError(f"{url} holds no videos", "name a folder with .mp4, .mov, .mkv, ... files")
    return FoundSources(tuple(sorted(files)), dict(sorted(ignored.items())))


def _store_status(url: str) -> tuple[int, str]:
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        return _status_of(retry(lambda: filesystem.info(path)))
    except (OSError, ImportError, ValueError):
        return -1, "missing"


def _status_of(info: dict[str, object]) -> tuple[int, str]:
    stamp = next(
        (str(info[k]) for k in ("ETag", "etag", "LastModified", "mtime") if info.get(k)), ""
    )
    return int(str(info.get("size") or 0)), stamp
