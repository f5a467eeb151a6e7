"""Compares a data set's bytes with its index."""

import hashlib
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

from preprocessing.storage.index import read_table
from preprocessing.storage.sample import MEMBERS
from preprocessing.storage.shard import tar_header
from preprocessing.storage.store import Store

_BLOCK = 512


def verify(
    store: Store, on_shard: Callable[[int, int], None] | None = None
) -> tuple[int, list[str]]:
    """Return how many members were compared, and a line for each fault.

    Checks that every shard exists, that it holds exactly the members of its rows where they say,
    and that each member's bytes have the recorded checksum.

    Args:
        store: where the data set is.
        on_shard: called with shards done and in all.

    Raises:
        UserError: there is no index.
    """
    rows = [row for row in read_table(store.url).to_pylist() if row["status"] == "kept"]
    rows.sort(key=lambda row: (row["shard"], row["mp4_offset"]))
    shards = [(name, list(group)) for name, group in groupby(rows, key=lambda row: row["shard"])]
    present = store.list("shards")
    members, faults = 0, []
    for number, (name, group) in enumerate(shards, start=1):
        size = present.pop(f"shards/{name}", None)
        if size is None:
            faults.append(f"shards/{name} is missing")
        else:
            for fault in _check_shard(store, name, size, group):
                faults.append(fault)
            members += len(group) * len(MEMBERS)
        if on_shard:
            on_shard(number, len(shards))
    faults += [f"{path} is not in the index" for path in sorted(present)]
    return members, faults


def _check_shard(store: Store, name: str, size: int, rows: list[dict[str, Any]]) -> Iterator[str]:
    end = 0
    for row in rows:
        for member in MEMBERS:
            offset, length = row[f"{member}_offset"], row[f"{member}_length"]
            label = f"{row['key']}.{member}"
            data = store.read(f"shards/{name}", offset - _BLOCK, offset + length)
            end = max(end, offset + length)
            if data[:_BLOCK] != tar_header(label, length):
                yield f"shards/{name} has no {label} where the index says"
            elif hashlib.sha256(data[_BLOCK:]).hexdigest() != row[f"{member}_sha256"]:
                yield f"shards/{name}: {label} is damaged"
    expected = -(-end // _BLOCK) * _BLOCK + 2 * _BLOCK
    if size != expected:
        yield f"shards/{name} has {size} bytes and should have {expected}"
