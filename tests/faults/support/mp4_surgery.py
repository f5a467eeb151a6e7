"""Reads and edits the boxes of an MP4 in memory, for files no muxer would write."""

import struct
from collections.abc import Iterator

_HOLDERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"udta"}


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, start, end) of the boxes in a stretch."""
    end = len(data) if end is None else end
    while start + 8 <= end:
        length, kind = struct.unpack_from(">I4s", data, start)
        if length == 1:
            length = struct.unpack_from(">Q", data, start + 8)[0]
        if length < 8:
            return
        yield kind, start, min(end, start + length)
        start += length


def find(data: bytes, *path: bytes) -> tuple[int, int]:
    """Return (start, end) of the first box at a path of kinds."""
    start, end = 0, len(data)
    for depth, wanted in enumerate(path):
        inside = start + 8 if depth else 0
        start, end = next((s, e) for kind, s, e in boxes(data, inside, end) if kind == wanted)
    return start, end


TABLE = (b"moov", b"trak", b"mdia", b"minf", b"stbl")


def sample_ranges(data: bytes) -> list[tuple[int, int]]:
    """Return (offset, size) of every sample of the first track."""
    size_at, _ = find(data, *TABLE, b"stsz")
    fixed, count = struct.unpack_from(">II", data, size_at + 12)
    sizes = [fixed] * count if fixed else list(struct.unpack_from(f">{count}I", data, size_at + 20))
    chunk_at, _ = find(data, *TABLE, b"stco")
    chunks = struct.unpack_from(
        f">{struct.unpack_from('>I', data, chunk_at + 12)[0]}I", data, chunk_at + 16
    )
    run_at, _ = find(data, *TABLE, b"stsc")
    runs = [
        struct.unpack_from(">III", data, run_at + 16 + 12 * i)
        for i in range(struct.unpack_from(">I", data, run_at + 12)[0])
    ]
    ranges: list[tuple[int, int]] = []
    for number, offset in enumerate(chunks, start=1):
        per_chunk = next(run[1] for run in reversed(runs) if run[0] <= number)
        for _ in range(per_chunk):
            if len(ranges) == count:
                return ranges
            ranges.append((offset, sizes[len(ranges)]))
            offset += ranges[-1][1]
    return ranges


def set_word(data: bytes, place: int, value: int) -> bytes:
    """Overwrite the big-endian 32-bit word at `place`."""
    return data[:place] + struct.pack(">I", value) + data[place + 4 :]


def box(kind: bytes, body: bytes) -> bytes:
    """Make a box."""
    return struct.pack(">I4s", len(body) + 8, kind) + body


def inserted(data: bytes, at: int, piece: bytes, within: tuple[int, ...]) -> bytes:
    """Insert bytes at `at` and lengthen the boxes that start at `within`."""
    for start in within:
        data = set_word(data, start, struct.unpack_from(">I", data, start)[0] + len(piece))
    return data[:at] + piece + data[at:]
