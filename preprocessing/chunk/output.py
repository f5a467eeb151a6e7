"""A part: the result of one chunk in one file, which is there whole or not at all.

It is a tar: first `part.json` with a row per clip and what the task said last, then each kept
clip's members and each clip's strip for the report. A row says where in the file its members lie.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from preprocessing.chunk.task import ChunkEnd, ClipResult
from preprocessing.storage.shard import member_bytes, write_tar
from preprocessing.storage.store import Store

_HEADER = 512
# Enough for the rows of most parts in one read.
_FIRST_READ = 2**16


def pack_part(
    clips: Sequence[ClipResult], end: ChunkEnd, damage: Sequence[Mapping[str, Any]]
) -> bytes:
    """Return the bytes of a part.

    Args:
        clips: in order of appearance.
        end: what the task said last.
        damage: rows for the quarantine table.
    """
    rows, members, position = [], [], 0
    for number, clip in enumerate(clips):
        row = dict(clip.row)
        for name, data in (("mp4", clip.mp4), ("npz", clip.npz), ("jpg", clip.strip)):
            row[f"{name}_length"] = len(data)
            # Counted from the end of part.json, whose own length depends on these numbers.
            row[f"{name}_offset"] = position + _HEADER
            if data:
                members.append((f"{number:05d}.{name}", data))
                position += member_bytes(len(data))
        rows.append(row)
    content = {"rows": rows, "end": asdict(end), "damage": list(damage)}
    head = json.dumps(content, sort_keys=True, allow_nan=False).encode()
    buffer = io.BytesIO()
    list(write_tar(buffer, [("part.json", head), *members]))
    return buffer.getvalue()


def read_part(store: Store, path: str) -> dict[str, Any]:
    """Return a part's rows (offsets counted from the start of the file), end and damage."""
    start = store.read(path, 0, _FIRST_READ)
    size = int(start[124:135], 8)
    head = start[_HEADER : _HEADER + size]
    if len(head) < size:
        head = store.read(path, _HEADER, _HEADER + size)
    content: dict[str, Any] = json.loads(head)
    for row in content["rows"]:
        for name in ("mp4", "npz", "jpg"):
            row[f"{name}_offset"] += member_bytes(size)
        row["part"] = path
    return content


def read_part_member(store: Store, row: Mapping[str, Any], name: str) -> bytes:
    """Read one member (mp4, npz, jpg) of a clip from its part; empty where it has none."""
    length, offset = int(row[f"{name}_length"]), int(row[f"{name}_offset"])
    return store.read(str(row["part"]), offset, offset + length) if length else b""
