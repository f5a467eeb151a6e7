"""Contents of a data set: counts, identities, sizes, and reasons of dropped clips."""

import json
import shlex
from typing import Any

import pandas as pd

from pipelines.inspect.findings import Findings
from preprocessing.errors import UserError
from preprocessing.storage.index import INDEX_NAME, index_digest, read_index, read_parquet
from preprocessing.storage.store import Store, open_store

_ROWS = 8
_MEMBERS = ("json", "mp4", "npz")
# Fewer shards than this are worth a word.
_FEW_SHARDS = 8


def inspect_dataset(path: str) -> Findings:
    """Describe a finished data set at a folder or URL.

    Raises:
        UserError: The index, a shard or the description is missing or truncated.
    """
    store = open_store(path)
    index = read_index(path)
    kept = index[index["status"] == "kept"]
    dropped = index[index["status"] != "kept"]
    shards = _check_shards(store, kept)
    quarantine = _quarantine(store)
    digest = index_digest(path)
    facts: dict[str, Any] = {
        "clips kept": len(kept),
        "clips dropped": len(dropped),
        "seconds kept": round(float(kept["duration_s"].sum()), 2),
        "seconds dropped": round(float(dropped["duration_s"].sum()), 2),
        "frames": int(kept["frames"].sum()),
        "sources": int(index["source_sha256"].nunique()),
        "sources in quarantine": int(quarantine["source"].nunique()) if len(quarantine) else 0,
        "identities": int(kept["identity"].replace("", None).nunique()),
        "clips by split": _counts(kept["split"]),
        "shards": len(shards),
        **_few_shards(len(shards), len(kept)),
        "bytes in shards": sum(shards.values()),
        "index digest": digest,
        **_description(store, digest),
        "report": f"{path.rstrip('/')}/report.html",
    }
    tables = {
        "image sizes": _sizes(kept),
        "why clips were dropped": _reasons(dropped),
        "quarantine": _quarantine_rows(quarantine),
        "a sample": _sample(kept),
    }
    quoted = shlex.quote(path)
    if len(kept):
        following = (f"xnemo train tiny --data {quoted} --run first",)
    else:
        following = (f"open {quoted}/report.html and loosen the filter that dropped the most",)
    return Findings("data set", path, facts, tables, following)


def _check_shards(store: Store, kept: pd.DataFrame) -> dict[str, int]:
    """Return sizes of the shards in the index; UserError for one that is missing or truncated."""
    there = store.list("shards")
    sizes = {}
    for name, rows in kept.groupby("shard"):
        size = there.get(f"shards/{name}")
        if size is None:
            raise UserError(
                f"{store.url}/shards/{name} is missing, but the index has {len(rows)} clips",
                "run the same 'xnemo preprocess' again, or copy the shard back",
            )
        need = max(int((rows[f"{m}_offset"] + rows[f"{m}_length"]).max()) for m in _MEMBERS)
        if size < need:
            raise UserError(
                f"{store.url}/shards/{name} is truncated: {size} bytes, the index needs {need}",
                "run the same 'xnemo preprocess' again, or copy the shard back",
            )
        sizes[str(name)] = size
    return sizes


def _few_shards(shards: int, clips: int) -> dict[str, str]:
    """Return a warning where few readers can share the shards, and there could be more."""
    if shards >= min(_FEW_SHARDS, clips):
        return {}
    few = f"webdataset and other readers of whole shards keep at most {shards} workers busy"
    return {"warning": f"{few}; write more with shard.min_count={_FEW_SHARDS}"}


def _description(store: Store, digest: str) -> dict[str, Any]:
    """Return how the data set was made, from dataset.json; UserError if it is of another one."""
    again = "run the same 'xnemo preprocess' again"
    try:
        content = json.loads(store.read("dataset.json"))
    except FileNotFoundError:
        raise UserError(f"{store.url} has an {INDEX_NAME} but no dataset.json", again) from None
    except ValueError as error:
        raise UserError(f"{store.url}/dataset.json is damaged: {error}", again) from error
    if content.get("index_digest") != digest:
        raise UserError(
            f"{store.url}/{INDEX_NAME} holds other samples than dataset.json says", again
        )
    return {
        "schema": content.get("schema"),
        "settings": content.get("config_sha256"),
        "models": content.get("models", {}),
    }


def _quarantine(store: Store) -> pd.DataFrame:
    try:
        table = read_parquet(store.read("quarantine.parquet"))
    except FileNotFoundError:
        return pd.DataFrame()
    frame: pd.DataFrame = table.to_pandas(use_threads=False)
    return frame


def _quarantine_rows(quarantine: pd.DataFrame) -> list[dict[str, Any]]:
    columns = [c for c in ("source", "stage", "reason", "detail") if c in quarantine]
    records = quarantine.head(_ROWS)[columns].to_dict("records") if columns else []
    rows = [{str(name): value for name, value in record.items()} for record in records]
    return _with_rest(rows, len(quarantine))


def _counts(column: pd.Series) -> dict[str, int]:
    return {str(name): int(count) for name, count in column.value_counts().sort_index().items()}


def _sizes(kept: pd.DataFrame) -> list[dict[str, Any]]:
    by_size = kept.groupby("size")["duration_s"].agg(["size", "sum"]).sort_index()
    return [
        {"pixels": int(side), "clips": int(count), "seconds": round(float(seconds), 1)}
        for side, count, seconds in by_size.itertuples()
    ]


def _reasons(dropped: pd.DataFrame) -> list[dict[str, Any]]:
    by_reason = dropped.groupby("reason")["duration_s"].agg(["size", "sum"])
    by_reason = by_reason.sort_values("size", ascending=False, kind="stable")
    rows = [
        {"reason": str(reason), "clips": int(count), "seconds": round(float(seconds), 1)}
        for reason, count, seconds in by_reason.head(_ROWS).itertuples()
    ]
    return _with_rest(rows, len(by_reason))


def _with_rest(rows: list[dict[str, Any]], total: int) -> list[dict[str, Any]]:
    """Return the rows and, if some are omitted, one with their number."""
    if total <= len(rows):
        return rows
    first, *others = rows[0]
    return [*rows, {first: f"… and {total - len(rows)} more", **dict.fromkeys(others, "")}]


def _sample(kept: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the first kept row, a column per line, without empty values."""
    if not len(kept):
        return []
    row = kept.iloc[0]
    return [
        {"column": str(name), "value": value.item() if hasattr(value, "item") else value}
        for name, value in row.items()
        if value is not None and value == value and value != ""
    ]
