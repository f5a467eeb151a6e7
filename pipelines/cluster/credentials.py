"""Authentication tokens of Ray: for a private instance, and for clusters that require one."""

import importlib
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from preprocessing.paths import in_home

_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE")

# Seconds that a cluster may take to answer.
_PROBE_TIMEOUT_S = 5.0


@contextmanager
def restored_credentials() -> Iterator[None]:
    """Restore the environment's token afterwards, so that the next cluster gets its own."""
    before = {name: os.environ.get(name) for name in _VARIABLES}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        raylet = importlib.import_module("ray._raylet")
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()


def set_private_token() -> None:
    """Give a private Ray a token of its own, unless the user has one.

    Ray requires a token for a private instance too, and would write one to the home folder, which
    may be read-only. All its processes inherit the environment.
    """
    if not _has_token():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def match_auth_mode(address: str) -> None:
    """Turn token authentication on if the cluster at ``address`` requires it.

    Ray does so by itself only for the address "auto". With a cluster that has none it must stay
    off: this process would refuse the cluster's calls and be taken for dead.
    """
    if "RAY_AUTH_MODE" not in os.environ and _has_token() and _requires_token(address):
        os.environ["RAY_AUTH_MODE"] = "token"
        importlib.import_module("ray._raylet").Config.initialize("")


def _has_token() -> bool:
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else in_home(".ray/auth_token")
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or (path is not None and path.is_file())


def _requires_token(address: str) -> bool:
    if address == "auto":
        return True
    raylet = importlib.import_module("ray._raylet")
    errors = importlib.import_module("ray.exceptions")
    raylet.Config.initialize("")
    try:
        with _no_stderr():
            raylet.GcsClient(address=address).internal_kv_keys(b"", None, timeout=_PROBE_TIMEOUT_S)
    except errors.AuthenticationError:
        return True
    except errors.RayError:
        # Any other problem is reported when the cluster is joined.
        return False
    return False


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Discard what Ray's native code writes to stderr."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
