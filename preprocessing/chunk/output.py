"""The chunk output: the result of one chunk in one file, which is published atomically.

It is a tar: first `chunk.json` with a row per clip and the summary of the task, then each kept
clip's members and each clip's strip for the report. A row says where in the file its members lie.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from preprocessing.chunk.records import ChunkEnd, ClipResult, Row
from preprocessing.storage.shard import HEADER_BYTES, member_bytes, write_tar
from preprocessing.storage.store import Store

# Enough for the rows of most outputs in one read.
_FIRST_READ = 2**16
# Outputs read at once, to hide the latency of an object store, and submitted at once.
_READERS, _BATCH = 8, 64
_MEMBERS = ("mp4", "npz", "jpg")


@dataclass(frozen=True)
class ChunkOutput:
    """Head of a chunk output: everything but the members."""

    # One row per clip; offsets of members count from the start of the file.
    rows: list[Row]
    end: ChunkEnd
    # Rows for the quarantine table.
    damage: list[Row]


def pack_output(
    clips: Sequence[ClipResult], end: ChunkEnd, damage: Sequence[Mapping[str, Any]]
) -> bytes:
    """Return the bytes of a chunk output.

    Args:
        clips: in order of appearance.
        end: summary of the task.
        damage: rows for the quarantine table.
    """
    rows, members, position = [], [], 0
    for number, clip in enumerate(clips):
        row = dict(clip.row)
        for name, data in zip(_MEMBERS, (clip.mp4, clip.npz, clip.strip), strict=True):
            row[f"{name}_length"] = len(data)
            # Counted from the end of chunk.json, whose own length depends on these numbers.
            row[f"{name}_offset"] = position + HEADER_BYTES
            if data:
                members.append((f"{number:05d}.{name}", data))
                position += member_bytes(len(data))
        rows.append(row)
    content = {"rows": rows, "end": asdict(end), "damage": list(damage)}
    head = json.dumps(content, sort_keys=True, allow_nan=False).encode()
    buffer = io.BytesIO()
    list(write_tar(buffer, [("chunk.json", head), *members]))
    return buffer.getvalue()


def read_output(store: Store, path: str) -> ChunkOutput:
    """Read the head of a chunk output."""
    start = store.read(path, 0, _FIRST_READ)
    size = int(start[124:135], 8)
    head = start[HEADER_BYTES : HEADER_BYTES + size]
    if len(head) < size:
        head = store.read(path, HEADER_BYTES, HEADER_BYTES + size)
    content = json.loads(head)
    for row in content["rows"]:
        for name in _MEMBERS:
            row[f"{name}_offset"] += member_bytes(size)
        row["output"] = path
    return ChunkOutput(content["rows"], ChunkEnd(**content["end"]), content["damage"])


def read_outputs(store: Store, paths: Sequence[str]) -> Iterator[ChunkOutput]:
    """Read the heads of many chunk outputs, several at once; yield them in order."""
    with ThreadPoolExecutor(_READERS, thread_name_prefix="read") as pool:
        for begin in range(0, len(paths), _BATCH):
            yield from pool.map(partial(read_output, store), paths[begin : begin + _BATCH])


def read_output_member(store: Store, row: Mapping[str, Any], name: str) -> bytes:
    """Read one member (mp4, npz, jpg) of a clip from its chunk output; empty where it has none."""
    length, offset = int(row[f"{name}_length"]), int(row[f"{name}_offset"])
    return store.read(str(row["output"]), offset, offset + length) if length else b""
