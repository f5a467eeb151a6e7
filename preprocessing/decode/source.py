"""Sources of video (paths, URLs, bytes, streams), their checks and limits."""

import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from preprocessing.decode.failure import DecodeError

Source = str | os.PathLike[str] | bytes | BinaryIO


@dataclass(frozen=True)
class DecodeLimits:
    """Bounds on what one source can make a decoder allocate or loop over."""

    # Pixels of one coded frame: 8192 × 4608, above 8K.
    max_pixels: int = 8192 * 4608
    # Streams in one container; broadcast captures stay under a hundred.
    max_streams: int = 256
    # Errors in a row without a decoded frame between them, after which decoding stops.
    max_errors_in_a_row: int = 2000


def is_url(source: object) -> bool:
    """Return whether `source` is a URL (`scheme://…`) rather than a local path."""
    return isinstance(source, str) and "://" in source and not os.path.exists(source)


def local_path(source: Source) -> Path | None:
    """Return the local path that `source` names, or None for bytes, streams and URLs."""
    if isinstance(source, str) and is_url(source):
        return None
    if isinstance(source, (str, os.PathLike)):
        return Path(source)
    return None


def check_path(path: Path) -> int:
    """Return the size in bytes of a readable regular file; raise DecodeError for anything else.

    Pipes, which block, and devices are refused by their type, before they are opened.
    """
    try:
        status = os.stat(path)
    except PermissionError as error:
        raise DecodeError("permission", f"{path}: {error.strerror}") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise DecodeError("missing", f"{path}: {why}") from error
    if stat.S_ISDIR(status.st_mode) and not os.access(path, os.R_OK | os.X_OK, effective_ids=True):
        raise DecodeError("permission", f"{path} is a folder without read permission")
    if not stat.S_ISREG(status.st_mode):
        kinds = {
            stat.S_IFDIR: "a folder",
            stat.S_IFIFO: "a pipe",
            stat.S_IFSOCK: "a socket",
            stat.S_IFCHR: "a device",
            stat.S_IFBLK: "a device",
        }
        kind = kinds.get(stat.S_IFMT(status.st_mode), "not a regular file")
        raise DecodeError("not_a_file", f"{path} is {kind}")
    if status.st_size == 0:
        raise DecodeError("empty", f"{path} has no bytes")
    if not os.access(path, os.R_OK, effective_ids=True):
        raise DecodeError("permission", f"{path} is not readable")
    return status.st_size


def open_bytes(source: Source) -> BinaryIO:
    """Open `source` as a seekable binary stream; the caller closes it.

    Raises DecodeError with the reason `missing`, `not_a_file`, `permission` or `empty`.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        if len(source) == 0:
            raise DecodeError("empty", "no bytes")
        return io.BytesIO(source)
    if isinstance(source, str) and is_url(source):
        return _open_url(source)
    if isinstance(source, (str, os.PathLike)):
        check_path(Path(source))
        return open(source, "rb")
    source.seek(0)
    return source


def _open_url(url: str) -> BinaryIO:
    import fsspec

    try:
        stream: BinaryIO = fsspec.open(url, "rb").open()
    except FileNotFoundError as error:
        raise DecodeError("missing", f"{url}: no such object") from error
    except PermissionError as error:
        raise DecodeError("permission", f"{url}: {error}") from error
    if stream.seek(0, io.SEEK_END) == 0:
        stream.close()
        raise DecodeError("empty", f"{url} has no bytes")
    stream.seek(0)
    return stream
