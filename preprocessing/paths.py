"""Paths as users write them, for users with and without a home folder."""

import os
from pathlib import Path


def user_path(path: str | os.PathLike[str]) -> Path:
    """Return a path with a leading ~ expanded.

    A user without a home folder, such as an arbitrary UID in a container, has none to expand to:
    their path is returned as it is, where `Path.expanduser` raises RuntimeError.
    """
    return Path(os.path.expanduser(path))


def in_home(name: str) -> Path | None:
    """Return a path in the user's home folder; None for a user without one."""
    path = user_path(f"~/{name}")
    return None if path.parts[0] == "~" else path
