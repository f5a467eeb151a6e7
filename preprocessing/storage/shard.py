"""Plain WebDataset tars whose bytes depend only on their members, and the range of each member."""

import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_BLOCK = 512

#: Bytes before each member, and after the last one.
HEADER_BYTES, END_BYTES = _BLOCK, 2 * _BLOCK


@dataclass(frozen=True)
class MemberRange:
    """Byte range of a member inside its tar."""

    name: str
    offset: int
    length: int


def tar_header(name: str, size: int) -> bytes:
    """Return the 512-byte header of a regular file: mode 0644, owner 0, time 0."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(format=tarfile.USTAR_FORMAT, encoding="ascii", errors="strict")


def header_name(block: bytes) -> str:
    """Return the name in a header written by `tar_header`; empty where there is none."""
    return block[:100].split(b"\0", 1)[0].decode("ascii", "replace")


def padded(size: int) -> int:
    """Return `size` rounded up to whole blocks."""
    return -(-size // _BLOCK) * _BLOCK


def member_bytes(size: int) -> int:
    """Return the bytes a member adds to a tar, header and padding included."""
    return _BLOCK + padded(size)


def tar_bytes(sizes: Iterable[int]) -> int:
    """Return the size of a tar whose members have these sizes."""
    return sum(member_bytes(size) for size in sizes) + END_BYTES


def write_tar(stream: BinaryIO, members: Iterable[tuple[str, bytes]]) -> Iterator[MemberRange]:
    """Write members in the order given, then the end mark; yields each range once it is written."""
    position = 0
    for name, data in members:
        stream.write(tar_header(name, len(data)))
        stream.write(data)
        stream.write(b"\0" * (padded(len(data)) - len(data)))
        yield MemberRange(name, position + _BLOCK, len(data))
        position += member_bytes(len(data))
    stream.write(b"\0" * END_BYTES)


def write_tar_file(path: Path, members: Iterable[tuple[str, bytes]]) -> list[MemberRange]:
    """Write a tar to a local file and return its members' ranges."""
    with open(path, "wb") as stream:
        return list(write_tar(stream, members))
