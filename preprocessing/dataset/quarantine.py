"""The table of sources that cannot be read, and of damaged stretches."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from preprocessing.chunk.records import Row
from preprocessing.storage.index import parquet_bytes, read_parquet
from preprocessing.storage.store import Store

QUARANTINE_NAME = "quarantine.parquet"

#: `start_s` and `end_s` count from the source's first frame, as the times of clips do; they are
#: empty where the whole source is unreadable. The other columns always have a value.
SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("sha256", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
    ]
)


def write_quarantine(store: Store, rows: Sequence[Mapping[str, Any]]) -> None:
    """Publish the table, sorted; the same rows give the same bytes."""
    ordered = sorted(rows, key=lambda r: (r["source"], r["start_s"] or 0.0, r["reason"]))
    store.write_atomic(QUARANTINE_NAME, parquet_bytes(pa.Table.from_pylist(ordered, schema=SCHEMA)))


def read_quarantine(store: Store) -> list[Row]:
    """Return the table's rows; none where there is no table."""
    if not store.exists(QUARANTINE_NAME):
        return []
    rows: list[Row] = read_parquet(store.read(QUARANTINE_NAME)).to_pylist()
    return rows
