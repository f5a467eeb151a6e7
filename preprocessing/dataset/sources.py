"""Lists the videos of a folder, a file, a list or a URL without opening one."""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from preprocessing.dataset.lists import GUESSED, LIST_EXTENSIONS, Listed, parse_list
from preprocessing.errors import UserError, first_line
from preprocessing.paths import user_path
from preprocessing.storage.fsspec_store import find_all
from preprocessing.storage.location import is_url, location_status, object_status, open_location

# Extensions that a folder is searched for. A file given by name or in a list may have any.
_EXTENSIONS = {
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".h264", ".hevc", ".m2ts",
    ".m2v", ".m4v", ".mjpeg", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf",
    ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".y4m",
}  # fmt: skip
_SPREADSHEETS = {".xlsx", ".xls", ".ods", ".numbers"}
_ASKED_AT_ONCE = 32


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

    A list is read by `lists.parse_list`. Relative paths in it are relative to the list.

    Args:
        videos: the folder, file, list or fsspec URL.
        licence: licence of the sources, where a list gives none of its own.

    Raises:
        UserError: there is no video at this place, or the place cannot be read.
    """
    given = os.fspath(videos)
    if Path(given).suffix.lower() in _SPREADSHEETS:
        raise UserError(f"{given} is a spreadsheet", "save it as CSV, with a column 'source'")
    if is_url(given):
        in_ = _in_list if given.lower().endswith(LIST_EXTENSIONS) else _in_store
        return in_(given, licence)
    path = user_path(given)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise UserError(
            f"no videos at {given}: {error.strerror}", "name a folder, a video or a list of videos"
        ) from error
    if stat.S_ISDIR(mode):
        return _in_folder(path, licence)
    if path.suffix.lower() in LIST_EXTENSIONS and stat.S_ISREG(mode):
        return _in_list(given, licence)
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


def _in_list(given: str, licence: str) -> FoundSources:
    try:
        data = _read_list(given)
    except UserError:
        raise
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise UserError(f"cannot read the list {given}: {reason}", "make it readable") from error
    listed = parse_list(given, data)
    files: dict[str, SourceFile] = {}
    # Each is asked for its size, which takes a while on other machines.
    with ThreadPoolExecutor(_ASKED_AT_ONCE, thread_name_prefix="list") as pool:
        ask = partial(_listed, given, licence, listed.encoding)
        found = list(pool.map(ask, listed.sources))
    for one, file in zip(listed.sources, found, strict=True):
        # A comment is what begins with '#' and is no file.
        if file.size < 0 and one.source.startswith("#"):
            continue
        if files.setdefault(file.name, file).licence != file.licence:
            raise UserError(
                f"the list {given} gives {one.source} two licences,"
                f" {files[file.name].licence!r} and {file.licence!r}",
                "leave one of the lines",
            )
    if not files:
        raise UserError(f"the list {given} names no videos", "write one path or URL per line")
    return FoundSources(tuple(sorted(files.values())), {})


def _read_list(given: str) -> bytes:
    if not is_url(given):
        return user_path(given).read_bytes()
    with open_location(given) as stream:  # type: ignore[union-attr]
        return stream.read()


def _listed(given: str, licence: str, encoding: str, one: Listed) -> SourceFile:
    """Return a source of a list; raises UserError where a guessed encoding names no file."""
    licence = one.licence or licence
    if "://" in one.source:
        return SourceFile(one.source, one.source, *location_status(one.source), licence)
    if is_url(given):
        url = f"{given.rpartition('/')[0]}/{one.source}"
        return SourceFile(one.source, url, *location_status(url), licence)
    folder = user_path(given).absolute().parent
    file = _local(folder / user_path(one.source), one.source, licence)
    is_comment = one.source.startswith("#")
    if encoding == GUESSED and file.size < 0 and not (is_comment or one.source.isascii()):
        # Names on disk that are no valid text, listed as they are.
        raw = os.fsdecode(one.source.encode(GUESSED))
        file = _local(folder / raw, raw, licence)
        if file.size < 0:
            raise UserError(
                f"the list {given} is not UTF-8, and read as {GUESSED} it names {one.source!r}"
                f" in line {one.line}, which does not exist",
                "save it as UTF-8",
            )
    return file


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
