"""Compares a data set's bytes with its index."""

import hashlib
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

import pyarrow.compute as pc

from preprocessing.storage.index import iter_rows, read_table
from preprocessing.storage.sample import MEMBERS
from preprocessing.storage.shard import END_BYTES, HEADER_BYTES, padded, tar_header
from preprocessing.storage.store import Store


def verify(
    store: Store, on_shard: Callable[[int, int], None] | None = None
) -> tuple[int, list[str]]:
    """Return the number of members compared, and one line per fault.

    Checks that every shard exists, that it holds exactly the members of its rows at their offsets,
    and that each member has the recorded checksum.

    Args:
        store: where the data set is.
        on_shard: called with the number of shards done and in total.

    Raises:
        UserError: there is no index.
    """
    index = read_table(store.url)
    kept = index.filter(pc.field("status") == "kept")
    kept = kept.sort_by([("shard", "ascending"), ("mp4_offset", "ascending")])
    shards = len(kept["shard"].unique())
    present = store.list("shards")
    members, faults = 0, []
    by_shard = groupby(iter_rows(kept), key=lambda row: row["shard"])
    for number, (name, rows) in enumerate(by_shard, start=1):
        group = list(rows)
        size = present.pop(f"shards/{name}", None)
        if size is None:
            faults.append(f"shards/{name} is missing")
        else:
            faults += _check_shard(store, name, size, group)
            members += len(group) * len(MEMBERS)
        if on_shard:
            on_shard(number, shards)
    faults += [f"{path} is not in the index" for path in sorted(present)]
    return members, faults


def _check_shard(store: Store, name: str, size: int, rows: list[dict[str, Any]]) -> Iterator[str]:
    end = 0
    for row in rows:
        for member in MEMBERS:
            offset, length = row[f"{member}_offset"], row[f"{member}_length"]
            label = f"{row['key']}.{member}"
            data = store.read(f"shards/{name}", offset - HEADER_BYTES, offset + length)
            end = max(end, offset + length)
            if data[:HEADER_BYTES] != tar_header(label, length):
                yield f"shards/{name} has no {label} at its offset in the index"
            elif hashlib.sha256(data[HEADER_BYTES:]).hexdigest() != row[f"{member}_sha256"]:
                yield f"shards/{name}: {label} is damaged"
    expected = padded(end) + END_BYTES
    if size != expected:
        yield f"shards/{name} has {size} bytes and should have {expected}"
