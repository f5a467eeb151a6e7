"""Every block of the README runs as it stands, at small size.

Placeholders become small files, settings that shorten training are added, and a GPU becomes a
CPU. Installation and cluster commands are checked without being run.
"""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import skimage.data
from footage import astronaut_footage
from PIL import Image
from untrained_model import write_bundle, write_video
from writing import encode

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
_BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
BLOCKS = [(language, text) for language, text in _BLOCK.findall(README) if language != "bibtex"]

#: Settings that let one step stand for a whole training run.
SHORT = ["samples=16", "global_batch=8", "micro_batch=8", "checkpoint.every_samples=16"]


def words_of(block: str) -> list[list[str]]:
    """Return a shell block's commands as words, comments left out."""
    lines = block.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_every_block_is_of_a_kind_that_is_run():
    assert {language for language, _ in BLOCKS} == {"bash", "python"}


def test_make_targets_exist():
    for block in (text for language, text in BLOCKS if language == "bash"):
        for words in words_of(block):
            if words[0] == "make":
                subprocess.run(
                    ["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True
                )


def test_extras_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    named = re.findall(r"pip install '?\.(?:\[([\w,-]+)\])?'?", README)
    assert named
    assert {extra for group in named if group for extra in group.split(",")} <= extras.keys()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the README assumes: videos, a portrait, a driving video, weights."""
    folder = tmp_path_factory.mktemp("desk")
    write_bundle(folder / "WEIGHTS", averaged=True)
    Image.fromarray(skimage.data.astronaut()).save(folder / "portrait.jpg")
    (folder / "VIDEOS").mkdir()
    for number in range(2):
        encode(folder / "VIDEOS" / f"{number}.mp4", astronaut_footage(number + 1, 60, 256, 256))
    write_video(folder / "driving.mp4")
    xnemo(folder, ["export", "WEIGHTS", "MODEL_DIR", "--layout", "diffusers"])
    return folder


def xnemo(folder: Path, words: list[str]) -> str:
    """Run a command in a folder and return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipelines.cli.main", *words]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{words}: {done.stderr[-2000:]}"
    return done.stdout


def shortened(words: list[str]) -> list[str]:
    """Return a command as it runs here: on a CPU, and training or sampling for a moment."""
    words = ["cpu" if word == "cuda" else word for word in words]
    if words[0] == "train":
        words += SHORT
    if words[0] == "animate":
        words += ["--steps", "1", "--max-frames", "4"]
    if words[0] == "evaluate":
        words += ["--limit", "1", "frames=4", "steps=1", "filter=frames > 0"]
    return words


def runs_here(words: list[str]) -> bool:
    return words[:2] != ["xnemo", "doctor"] and words[0] == "xnemo" and "--address" not in words


@pytest.mark.slow
def test_shell_blocks_run_in_order(desk: Path):
    """Each command finds what the commands before it wrote."""
    commands = [
        words for language, text in BLOCKS if language == "bash" for words in words_of(text)
    ]
    ran = [words[1:] for words in commands if runs_here(words)]
    assert {words[0] for words in ran} == {"animate", "preprocess", "train", "evaluate"}
    for words in ran:
        xnemo(desk, shortened(words))
    assert (desk / "OUT" / "report.html").is_file()
    assert (desk / "metrics.json").is_file()
    assert (desk / "result.mp4").stat().st_size > 0


@pytest.mark.slow
def test_python_blocks_run(desk: Path):
    for code in (text for language, text in BLOCKS if language == "python"):
        code = code.replace('"cuda"', '"cpu"').replace(
            "num_inference_steps=25", "num_inference_steps=1"
        )
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", code], cwd=desk, env=environment, check=True)
    assert (desk / "first.png").is_file()
