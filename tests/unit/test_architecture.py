"""Imports between rooms go one way, as `scripts/architecture.py` declares."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import architecture  # noqa: E402
from architecture import ROOMS  # noqa: E402

FORBIDDEN = {
    "preprocessing": {"xnemo", "pipelines", "ray", "mlflow", "deepspeed", "torch", "tests"},
    "xnemo": {"pipelines", "ray", "mlflow", "tests"},
    "pipelines": {"tests"},
}


def imported_roots(source: str) -> set[str]:
    """Return the first names of all modules a source imports, wherever in it."""
    roots = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            roots.add((node.module or "").split(".")[0])
    return roots


def test_the_checker_sees_nested_imports():
    assert imported_roots("def f():\n    from ray.train import x\n    import a.b") == {"ray", "a"}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_between_packages_go_one_way(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = {
        str(file.relative_to(ROOT)): sorted(found)
        for file in files
        if (found := imported_roots(file.read_text()) & FORBIDDEN[package])
    }
    assert wrong == {}


def test_every_module_is_in_a_room():
    assert [name for name in architecture.modules() if architecture.room_of(name) is None] == []


def test_rooms_import_only_rooms_listed_before_them():
    seen: set[str] = set()
    for room in ROOMS:
        assert set(room.imports) <= seen, room.name
        seen.add(room.name)


def test_imports_between_rooms_are_the_declared_ones():
    """An undeclared import is a wrong arrow; a declared one that nobody uses is out of date."""
    found = architecture.room_imports()
    declared = {(room.name, name) for room in ROOMS for name in room.imports}
    assert {edge: found[edge] for edge in found.keys() - declared} == {}
    assert declared - found.keys() == set()


def test_the_page_and_picture_are_up_to_date():
    """Run `python scripts/architecture.py` after a change of the table."""
    text = architecture.PAGE.read_text()
    assert architecture.page(text) == text
    assert architecture.PICTURE.read_text() == architecture.picture()


@pytest.mark.parametrize("package", architecture.PACKAGES)
def test_a_folder_holds_about_a_dozen_files(package):
    """The command line is the exception: one file a command."""
    folders = [ROOT / package, *(d for d in (ROOT / package).rglob("*") if d.is_dir())]
    crowded = {
        str(folder.relative_to(ROOT)): count
        for folder in folders
        if (count := len([*folder.glob("*.py")])) > (20 if folder.name == "cli" else 15)
    }
    assert crowded == {}


def test_deepspeed_is_imported_in_one_file():
    importers = [
        str(file.relative_to(ROOT))
        for package in FORBIDDEN
        for file in (ROOT / package).rglob("*.py")
        if "deepspeed" in imported_roots(file.read_text())
    ]
    assert importers == ["xnemo/training/engines/deepspeed_engine.py"]


def test_preprocessing_imports_without_torch_or_ray():
    """A preprocessing worker starts fast and small: none of its modules loads either."""
    modules = [name for name in architecture.modules() if name.split(".")[0] == "preprocessing"]
    code = (
        "import importlib, sys\n"
        f"[importlib.import_module(name) for name in {modules!r}]\n"
        "sys.exit(', '.join({'torch', 'ray', 'mlflow', 'deepspeed'} & set(sys.modules)) or 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
