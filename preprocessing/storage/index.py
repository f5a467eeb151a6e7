"""The index: one row per clip found, kept or dropped, in one Parquet file."""

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from preprocessing.errors import UserError
from preprocessing.storage.store import Store, open_store

if TYPE_CHECKING:
    import pandas as pd

INDEX_NAME = "index.parquet"
#: Settings, models and checksums of a finished data set.
DATASET_NAME = "dataset.json"

_TEXT, _INT, _FLOAT = pa.string(), pa.int64(), pa.float64()

#: Scores of a clip; filters compare them with thresholds. See `preprocessing.chunk.score`.
SCORES = (
    "face_px", "picture_px", "detection", "detected_fraction", "yaw", "pitch", "roll", "yaw_range",
    "sharpness", "exposure", "contrast", "motion", "mouth_range", "centre_shift", "out_of_frame",
    "pad_fraction", "others", "occlusion", "overlay", "repeated",
)  # fmt: skip

#: Columns and their types. Dropped clips have 0 as offset and length of members, and empty text;
#: integers are never missing, as pandas would turn their column into floating point.
SCHEMA = pa.schema(
    [
        ("key", _TEXT),
        ("status", _TEXT),
        ("reason", _TEXT),
        ("shard", _TEXT),
        *[(f"{m}_{what}", _INT) for m in ("mp4", "npz", "json") for what in ("offset", "length")],
        *[(f"{m}_sha256", _TEXT) for m in ("mp4", "npz", "json")],
        ("frames", _INT),
        ("fps", _FLOAT),
        ("size", _INT),
        ("duration_s", _FLOAT),
        ("source", _TEXT),
        ("source_sha256", _TEXT),
        ("licence", _TEXT),
        ("shot", _INT),
        ("track", _INT),
        ("start_ms", _INT),
        ("end_ms", _INT),
        ("identity", _TEXT),
        ("split", _TEXT),
        ("duplicate_of", _TEXT),
        ("tube_px", _INT),
        # Clips of synthetic people who make the same motion; empty for others.
        ("motion_group", _TEXT),
        *[(name, _FLOAT) for name in SCORES],
        ("score", _FLOAT),
    ]
)


#: Columns that every reader relies on; others may change between versions.
ESSENTIAL = (
    "key", "status", "shard", "frames", "identity",
    *[f"{m}_{what}" for m in ("mp4", "npz", "json") for what in ("offset", "length", "sha256")],
)  # fmt: skip

_WITHOUT: dict[str, int | str] = {
    field.name: 0 if field.type == _INT else "" for field in SCHEMA if field.type != _FLOAT
}


def write_index(store: Store, rows: Sequence[Mapping[str, Any]]) -> None:
    """Publish the index, rows sorted by key; the same rows give the same bytes."""
    ordered = sorted(rows, key=lambda row: row["key"])
    # Column by column: a dict per row would take many times the memory of the table.
    columns = [
        pa.array(
            (_WITHOUT.get(name) if (value := row.get(name)) is None else value for row in ordered),
            SCHEMA.field(name).type,
            size=len(ordered),
        )
        for name in SCHEMA.names
    ]
    store.write_atomic(INDEX_NAME, parquet_bytes(pa.Table.from_arrays(columns, schema=SCHEMA)))


def parquet_bytes(table: pa.Table) -> bytes:
    """Return a table as Parquet bytes that depend on its rows only."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=65536)
    return buffer.getvalue()


def read_parquet(data: bytes) -> pa.Table:
    """Return a table from Parquet bytes; raises ArrowInvalid or OSError where they are damaged.

    Arrow's threads are not used: one that releases a Python object during interpreter shutdown
    crashes the process.
    """
    with pq.ParquetFile(pa.BufferReader(data), pre_buffer=False) as file:
        return file.read(use_threads=False)


def read_index(root: str | os.PathLike[str]) -> "pd.DataFrame":
    """Return the index of a data set as a pandas table, sorted by key.

    Raises:
        UserError: there is no index, or it cannot be read.
    """
    table: pd.DataFrame = read_table(root).to_pandas(use_threads=False)
    return table


def read_table(root: str | os.PathLike[str]) -> pa.Table:
    """Return the index of a data set as an Arrow table; raises as `read_index`."""
    store = open_store(root)
    try:
        data = store.read(INDEX_NAME)
    except FileNotFoundError as error:
        raise UserError(
            f"{store.url} is not a finished data set: it has no {INDEX_NAME}",
            "give a folder that 'xnemo preprocess' wrote, or run it again to finish",
        ) from error
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f"{store.url}/{INDEX_NAME} cannot be read: {error}",
            "check the connection and permissions, and retry",
        ) from error
    try:
        table = read_parquet(data)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{store.url}/{INDEX_NAME} is damaged: {error}", "run 'xnemo preprocess' again"
        ) from error
    _require_columns(table, store.url)
    return table


def _require_columns(table: pa.Table, url: str) -> None:
    """Raise UserError for an index without an essential column or with a wrong type."""
    for name in ESSENTIAL:
        wanted = SCHEMA.field(name).type
        found = table.schema.field(name).type if name in table.schema.names else None
        if found is None or (_is_text(found) != _is_text(wanted)):
            what = f"has no column {name!r}" if found is None else f"has {found} in column {name!r}"
            raise UserError(
                f"{url}/{INDEX_NAME} {what}: another version wrote it",
                "use the version that wrote it, or run 'xnemo preprocess' again",
            )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def index_digest(root: str | os.PathLike[str]) -> str:
    """Return a sha256 over the kept samples (keys and members' checksums), as hex.

    Equal digests mean equal samples, however they are divided into shards.
    """
    columns = ["status", "key", "mp4_sha256", "npz_sha256", "json_sha256"]
    return rows_digest(iter_rows(read_table(root).select(columns).sort_by("key")))


def iter_rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield a table's rows as dicts, a few thousand of them in memory at once."""
    for batch in table.to_batches(max_chunksize=4096):
        yield from batch.to_pylist()


def rows_digest(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the digest of `index_digest` for rows sorted by key."""
    digest = hashlib.sha256()
    for row in rows:
        if row["status"] == "kept":
            line = [row["key"], row["mp4_sha256"], row["npz_sha256"], row["json_sha256"]]
            digest.update("\t".join(map(str, line)).encode() + b"\n")
    return digest.hexdigest()
