"""Arbitrary UIDs of containers have neither a name nor a home folder."""

import os
from pathlib import Path

import pytest

from preprocessing.paths import in_home, user_path

ROOT = Path(__file__).resolve().parents[3]


def test_a_home_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/a b") == tmp_path / "a b"
    assert in_home(".cache/x") == tmp_path / ".cache/x"
    assert user_path("a/~") == Path("a/~")


def test_without_a_home_nothing_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    # What the standard library returns for such a user.
    monkeypatch.setattr(os.path, "expanduser", os.fspath)
    assert user_path("/data") == Path("/data")
    assert user_path("~/data") == Path("~/data")
    assert in_home(".cache/x") is None


def test_nothing_else_asks_for_a_home() -> None:
    """`Path.expanduser` and `Path.home` raise RuntimeError for such a user."""
    asking = [
        str(file.relative_to(ROOT))
        for package in ("preprocessing", "xnemo", "pipelines")
        for file in (ROOT / package).rglob("*.py")
        if file.name != "paths.py"
        and any(call in file.read_text() for call in (".expanduser()", "Path.home()"))
    ]
    assert asking == []
