"""Atomic publication of folders, and verification of their files."""

import hashlib
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def file_facts(path: Path) -> dict[str, Any]:
    """Return "bytes" and "sha256" of a file."""
    with path.open("rb") as file:
        return {
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def find_damage(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return what is wrong with the first damaged file of a folder, or None.

    Args:
        folder: what to verify.
        files: `file_facts` of the expected files, by relative name.
    """
    for name, facts in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != facts["bytes"]:
            return f"{name} has {path.stat().st_size} bytes instead of {facts['bytes']}"
        if file_facts(path)["sha256"] != facts["sha256"]:
            return f"{name} differs from its checksum"
    return None


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Link a file that never changes, or copy it on a disk without hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def publish_folder(temporary: Path, folder: Path) -> None:
    """Flush a folder's files to disk and rename it to `folder`, replacing an existing one."""
    for path in [p for p in temporary.rglob("*") if p.is_file()]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    if folder.exists():
        old = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.old")
        folder.rename(old)
        temporary.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        temporary.rename(folder)
