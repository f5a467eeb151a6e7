"""Commands in documents and scripts parse with the current command line."""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from command_line import parse
from typer.exceptions import TyperException

from preprocessing.errors import UserError
from preprocessing.storage.index import SCHEMA
from preprocessing.storage.sample import SampleArrays

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "infra" / "README.md", *sorted(ROOT.glob("docs/*.md"))]
SCRIPTS = sorted(ROOT.glob("infra/**/*.sbatch"))


@dataclass(frozen=True)
class Shown:
    """A command line and the file that contains it."""

    file: Path
    line: str

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}: {self.line}"


def in_document(file: Path) -> list[Shown]:
    """Return the commands of a Markdown file, in blocks and as inline code."""
    text = file.read_text().replace("\\\n", " ")
    fenced = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    blocks = re.findall(r"^\s*(xnemo [a-z].*)$", fenced, re.MULTILINE)
    blocks += re.findall(r"^(?: {4}|> )\s*(xnemo [a-z].*)$", text, re.MULTILINE)
    # Inline code may be split over two lines.
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]
    inline = [code for code in inline if re.match(r"xnemo [a-z]+( |$)", code)]
    return [Shown(file, line) for line in [*blocks, *inline]]


def in_script(file: Path) -> list[Shown]:
    """Return the commands of a script's comments."""
    text = re.sub(r"\\\n#\s*", "", file.read_text())
    return [
        Shown(file, f"xnemo {words}") for words in re.findall(r"xnemo\.sbatch (\w.*)$", text, re.M)
    ]


SHOWN = [s for d in DOCUMENTS for s in in_document(d)] + [s for f in SCRIPTS for s in in_script(f)]


@pytest.mark.parametrize("shown", SHOWN, ids=str)
def test_shown_commands_parse(shown: Shown) -> None:
    parse(shown.line)


def test_commands_are_found_and_wrong_ones_are_refused() -> None:
    found = {s.line.split()[1] for s in SHOWN}
    assert {"doctor", "preprocess", "inspect", "train", "animate"} <= found
    assert {s.file.suffix for s in SHOWN} == {".md", ".sbatch"}
    for wrong in (
        "xnemo train image --data x --run y optimiser.lr=1",
        "xnemo train image --run y",
        "xnemo preprocess x y --dryrun",
        "xnemo trian image",
        "xnemo train imag --data x --run y",
    ):
        with pytest.raises((UserError, TyperException, KeyError)):
            parse(wrong)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_paths_of_documents_exist(document: Path) -> None:
    text = document.read_text()
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert "://" in link or (document.parent / link).exists(), link
    for path in re.findall(r"`((?:infra|docs|tests|pipelines|xnemo|preprocessing)/[\w./]*)`", text):
        assert (ROOT / path).exists(), path
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"(?:`|^    )make ([a-z-]+)", text, re.MULTILINE):
        assert target in targets, target


def test_the_data_contract_names_every_column_and_array() -> None:
    text = (ROOT / "docs" / "data.md").read_text()
    rows = re.findall(r"^\| (`.+?) \|", text, re.MULTILINE)
    documented = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    arrays = [field.name for field in dataclasses.fields(SampleArrays)]
    start = documented.index("bbox")
    assert documented[:start] == ["mp4", "npz", "json"]
    assert documented[start : start + len(arrays)] == arrays
    assert documented[start + len(arrays) :] == list(SCHEMA.names)
