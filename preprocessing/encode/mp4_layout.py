"""Moves an MP4's index in front of its data, so that playback needs no seek."""

import struct
from collections.abc import Iterator

_HOLDERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")


def index_first(mp4: bytes) -> bytes:
    """Return `mp4` with `moov` before `mdat` and its chunk offsets adjusted.

    Raises:
        ValueError: There is more than one `mdat`, or an offset is 64-bit.
    """
    boxes = list(_boxes(mp4, 0, len(mp4)))
    kinds = [kind for kind, _, _ in boxes]
    if kinds.count(b"moov") != 1 or kinds.count(b"mdat") != 1:
        raise ValueError(f"expected one moov and one mdat, found {kinds}")
    parts = {kind: mp4[start:end] for kind, start, end in boxes}
    if kinds.index(b"moov") < kinds.index(b"mdat"):
        return mp4
    data_start = next(start for kind, start, _ in boxes if kind == b"mdat")
    head = parts[b"ftyp"] + parts[b"moov"]
    moved = _shifted(parts[b"moov"], len(head) - data_start)
    return parts[b"ftyp"] + moved + parts[b"mdat"]


def _boxes(data: bytes | bytearray, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, start, end) of the boxes in a range of bytes."""
    while start + 8 <= end:
        length, kind = struct.unpack_from(">I4s", data, start)
        if length == 1:
            length = struct.unpack_from(">Q", data, start + 8)[0]
        if length < 8 or start + length > end:
            raise ValueError(f"box {kind!r} at {start} has a bad length")
        yield kind, start, start + length
        start += length


def _shifted(moov: bytes, by: int) -> bytes:
    out = bytearray(moov)
    _shift(out, 0, len(out), by)
    return bytes(out)


def _shift(out: bytearray, start: int, end: int, by: int) -> None:
    """Add `by` to the chunk offsets between `start` and `end`, in place."""
    for kind, box_start, box_end in _boxes(out, start, end):
        if kind in _HOLDERS:
            _shift(out, box_start + 8, box_end, by)
        elif kind == b"co64":
            raise ValueError("64-bit chunk offsets are not expected in a clip")
        elif kind == b"stco":
            count = struct.unpack_from(">I", out, box_start + 12)[0]
            form = f">{count}I"
            offsets = struct.unpack_from(form, out, box_start + 16)
            struct.pack_into(form, out, box_start + 16, *(value + by for value in offsets))
