"""Architecture: imports go preprocessing <- xnemo <- pipelines, and heavy ones in one place."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FORBIDDEN = {
    "preprocessing": {"xnemo", "pipelines", "ray", "mlflow", "deepspeed", "tests"},
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
def test_imports_go_one_way(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = {
        str(file.relative_to(ROOT)): sorted(found)
        for file in files
        if (found := imported_roots(file.read_text()) & FORBIDDEN[package])
    }
    assert wrong == {}


def test_deepspeed_is_imported_in_one_file():
    importers = [
        str(file.relative_to(ROOT))
        for package in FORBIDDEN
        for file in (ROOT / package).rglob("*.py")
        if "deepspeed" in imported_roots(file.read_text())
    ]
    assert importers == ["xnemo/training/engines/deepspeed_engine.py"]


def test_preprocessing_imports_without_torch_or_ray():
    """A preprocessing worker must start fast and small: neither is loaded by any of its modules."""
    modules = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for file in sorted((ROOT / "preprocessing").rglob("*.py"))
    ]
    code = (
        "import importlib, sys\n"
        f"[importlib.import_module(name) for name in {modules!r}]\n"
        "sys.exit(', '.join({'torch', 'ray', 'mlflow', 'deepspeed'} & set(sys.modules)) or 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
