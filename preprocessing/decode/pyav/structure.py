"""Reads a container's structure to distinguish truncated from broken files."""

import io
import struct
from typing import BinaryIO, Literal

Family = Literal["MP4", "Matroska", "AVI", "FLV", "Ogg", "MPEG-TS", "MPEG-PS", "ASF"]

_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"moof", b"styp", b"pnot")
# Most boxes read: a fragmented hour has a few thousand.
_MOST_BOXES = 100_000


def container_family(head: bytes) -> Family | None:
    """Return the container family by its first 16 or more bytes, or None if unknown."""
    families: tuple[tuple[bool, Family], ...] = (
        (head[4:8] in _MP4_BOXES, "MP4"),
        (head[:4] == b"\x1aE\xdf\xa3", "Matroska"),
        (head[:4] == b"RIFF" and head[8:12] == b"AVI ", "AVI"),
        (head[:3] == b"FLV", "FLV"),
        (head[:4] == b"OggS", "Ogg"),
        (head[:1] == b"G" and len(head) > 188 and head[188:189] == b"G", "MPEG-TS"),
        (head[:4] == b"\x00\x00\x01\xba", "MPEG-PS"),
        (head[:4] == b"\x30\x26\xb2\x75", "ASF"),
    )
    return next((family for fits, family in families if fits), None)


def missing_bytes(stream: BinaryIO, family: Family) -> bool:
    """Return whether the container's own sizes extend beyond the end of the file.

    An MP4 without `moov` counts as truncated too, because the index is written last. Families
    without an overall size (MPEG-TS, Ogg, FLV) return False.
    """
    size = stream.seek(0, io.SEEK_END)
    if family == "MP4":
        return _mp4_is_short(stream, size)
    stream.seek(0)
    head = stream.read(64)
    if family == "AVI" and len(head) >= 8:
        # Writers that cannot seek leave 0 or the maximum.
        declared = int.from_bytes(head[4:8], "little")
        return 0 < declared < 0xFFFFFFFF and declared + 8 > size + 1
    if family == "Matroska":
        end = _matroska_end(head)
        return end is not None and end > size
    return False


def _mp4_is_short(stream: BinaryIO, size: int) -> bool:
    position, has_index = 0, False
    for _ in range(_MOST_BOXES):
        if position + 8 > size:
            break
        stream.seek(position)
        length, kind = struct.unpack(">I4s", stream.read(8))
        if length == 1:
            large = stream.read(8)
            if len(large) < 8:
                return True
            length = struct.unpack(">Q", large)[0]
        has_index = has_index or kind == b"moov"
        if length == 0:
            position = size
            break
        if length < 8:
            return False
        position += length
    return position > size or not has_index


def _matroska_end(head: bytes) -> int | None:
    """Return the declared end of the Segment, or None where its size is unknown."""
    position = 4
    length, position, _ = _vint(head, position)
    position += length
    if head[position : position + 4] != b"\x18\x53\x80\x67":
        return None
    length, position, unknown = _vint(head, position + 4)
    return None if unknown or position > len(head) else position + length


def _vint(data: bytes, position: int) -> tuple[int, int, bool]:
    """Read an EBML length: (value, position after it, whether it means "unknown")."""
    if position >= len(data) or data[position] == 0:
        return 0, position + 1, True
    width = 9 - data[position].bit_length()
    raw = int.from_bytes(data[position : position + width], "big")
    value = raw & ((1 << (7 * width)) - 1)
    return value, position + width, value == (1 << (7 * width)) - 1
