"""Checks of Ray, DeepSpeed, MLflow and object stores."""

import contextlib
import os
import socket
import sqlite3
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from pipelines.doctor.check import Check
from pipelines.tracking import choose_uri
from preprocessing.errors import UserError
from preprocessing.paths import user_path


def check_services() -> Iterator[Check]:
    """Check the libraries and services that jobs use."""
    yield _package("ray", "ray", "preprocess")
    yield from _ray_address()
    yield _package("DeepSpeed", "deepspeed", "train")
    yield from _deepspeed_lock()
    yield _package("MLflow", "mlflow", "train")
    yield _tracking()
    yield _object_store()
    if find_spec("torchvision") is not None:
        yield Check(
            "torchvision",
            "warn",
            "installed; a build that does not match torch breaks diffusers and transformers",
            "pip uninstall torchvision",
        )


def _package(name: str, package: str, extra: str) -> Check:
    try:
        return Check(name, "ok", version(package))
    except PackageNotFoundError:
        return Check(name, "warn", "not installed", f"pip install 'xnemo[{extra}]'")


def _ray_address() -> Iterator[Check]:
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        yield Check("ray cluster", "warn", f"RAY_ADDRESS is {address!r}", "write HOST:PORT")
    elif _answers(host, int(port)):
        yield Check("ray cluster", "ok", f"{address} answers (RAY_ADDRESS)")
    else:
        yield Check("ray cluster", "missing", f"{address} does not answer", "unset RAY_ADDRESS")


def _deepspeed_lock() -> Iterator[Check]:
    """Check for the lock of a killed build, on which every later build waits."""
    root = os.environ.get("TORCH_EXTENSIONS_DIR", "~/.cache/torch_extensions")
    for lock in user_path(root).glob("**/lock"):
        yield Check(
            "DeepSpeed build", "warn", f"locked by {lock}", f"rm {lock} if no build is running"
        )


def _tracking() -> Check:
    try:
        uri = choose_uri(None, otherwise="")
    except UserError as error:
        return Check("tracking", "missing", f"MLFLOW_TRACKING_URI: {error.what}", error.remedy)
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        port = parts.port or (443 if parts.scheme == "https" else 80)
        if _answers(parts.hostname or "", port):
            return Check("tracking", "ok", f"{uri} answers")
        return Check(
            "tracking",
            "warn",
            f"{uri} does not answer; runs keep their records and `xnemo sync` sends them later",
            "start the server, or unset MLFLOW_TRACKING_URI",
        )
    with tempfile.TemporaryDirectory(dir=Path.cwd() if os.access(".", os.W_OK) else None) as folder:
        with contextlib.closing(sqlite3.connect(Path(folder) / "probe.db")) as database:
            database.execute("create table t (x)")
        return Check("tracking", "ok", uri or f"SQLite {sqlite3.sqlite_version} in the runs folder")


def _object_store() -> Check:
    drivers = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}
    schemes = [scheme for scheme, module in drivers.items() if find_spec(module) is not None]
    found = ", ".join(f"{scheme}://" for scheme in schemes) or "local paths only"
    if schemes:
        return Check("object stores", "ok", found)
    return Check("object stores", "warn", found, "pip install 'xnemo[s3]'")


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=3).close()
    except OSError:
        return False
    return True
