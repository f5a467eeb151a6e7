"""The Dockerfile fits the project: it cannot be built where tests run."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "infra" / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
)


def test_everything_that_is_copied_exists_and_is_sent_to_the_builder():
    copied = [words.split()[:-1] for words in re.findall(r"^COPY (.+)$", TEXT, re.MULTILINE)]
    ignored = (ROOT / ".dockerignore").read_text().split()
    names = {name for names in copied for name in names}
    assert {"pyproject.toml", "preprocessing", "xnemo", "pipelines"} <= names
    for name in names:
        assert (ROOT / name).exists(), name
        assert name not in ignored
    # Data, models and secrets of whoever builds it stay out.
    assert {"runs", "out", "demo", ".git", ".venv"} <= set(ignored)
    assert not names & set(ignored)


def test_extras_and_versions_exist():
    (extras,) = re.findall(r"'\.\[([\w,-]+)\]'", TEXT)
    assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()
    base = re.search(r"^FROM python:(\d+\.\d+)-", TEXT, re.MULTILINE)[1]
    assert PROJECT["requires-python"] == f">={base}"
    for name in re.findall(r"\^([\w-]+)==", TEXT):
        assert name in PINS, name


def test_what_the_nodes_of_a_cluster_need_is_pinned_and_in_the_image():
    for requirement in PROJECT["optional-dependencies"]["cluster"]:
        assert re.match(r"[\w-]+", requirement)[0] in PINS
    assert "cluster" in re.search(r"'\.\[([\w,-]+)\]'", TEXT)[1].split(",")


def test_it_runs_as_an_ordinary_user_with_a_home_for_any():
    assert re.findall(r"^USER (\d+)$", TEXT, re.MULTILINE) == ["1000"]
    home = re.search(r"HOME=(\S+)", TEXT)[1]
    assert f"chmod 1777 {home}" in TEXT
    assert TEXT.rstrip().endswith(f"WORKDIR {home}")


@pytest.mark.parametrize("word", ["AWS_", "TOKEN", "PASSWORD", "SECRET", ".safetensors", ".onnx"])
def test_nothing_is_baked_in(word):
    assert word not in TEXT
