"""MLflow tracking URIs."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from preprocessing.errors import UserError

# Seconds that MLflow's client waits for an answer, to a call and to an upload: a server that passes
# a bundle on to a bucket answers when the bucket has it.
_TIMEOUT, _CALL_S, _UPLOAD_S = "MLFLOW_HTTP_REQUEST_TIMEOUT", "10", "900"
_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")


def default_uri(runs_dir: Path) -> str:
    """Return the SQLite store in ``runs_dir``, which needs no server."""
    return f"sqlite:///{runs_dir.resolve() / 'mlflow.db'}"


def choose_uri(uri: str | None, otherwise: str) -> str:
    """Return the store of a job: ``uri``, else MLFLOW_TRACKING_URI, else ``otherwise``.

    The store is not contacted: a job starts also while its server is away.

    Raises:
        UserError: MLflow has no client for the URI.
    """
    chosen = uri or os.environ.get("MLFLOW_TRACKING_URI") or otherwise
    if chosen:
        check_uri(chosen)
    return chosen


def check_uri(uri: str) -> None:
    """Check the scheme of a URI.

    Raises:
        UserError: it is a plain folder or the scheme is unknown.
    """
    scheme = uri.partition("://")[0] if "://" in uri else ""
    if scheme.partition("+")[0] not in _SCHEMES and uri != "databricks":
        raise UserError(
            f"{uri!r} is not an MLflow store", "use sqlite:///FILE.db or http://HOST:PORT"
        )


def limit_waiting() -> None:
    """Limit how long MLflow waits for a server; by default it holds a call for four minutes.

    Environment variables that are already set take precedence.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
    os.environ.setdefault(_TIMEOUT, _CALL_S)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def patient_uploads() -> Iterator[None]:
    """Let MLflow wait longer for uploads, unless the user has set the time."""
    if os.environ.get(_TIMEOUT) != _CALL_S:
        yield
        return
    os.environ[_TIMEOUT] = _UPLOAD_S
    try:
        yield
    finally:
        os.environ[_TIMEOUT] = _CALL_S
