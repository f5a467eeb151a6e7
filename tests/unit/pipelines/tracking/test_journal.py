"""The journal survives what happens to processes."""

import json
import math
from pathlib import Path

import pytest

from pipelines.tracking import journal
from pipelines.tracking.journal import Journal
from preprocessing.errors import UserError


def test_entries_are_numbered_across_restarts_and_the_key_stays(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    key = first.start(name="a", experiment="xnemo")
    first.metrics(4, {"loss": 1.5})
    first.close()
    second = Journal(tmp_path)
    assert second.start(name="a", experiment="xnemo") == key
    second.metrics(8, {"loss": 1.0})
    assert [entry["seq"] for entry in journal.read(tmp_path)] == [0, 1, 2, 3]
    assert [entry["step"] for entry in journal.read(tmp_path, start=3)] == [8]


@pytest.mark.parametrize("torn", [b'{"seq": 1, "ki', b"x" * 10_000])
def test_a_line_torn_by_a_crash_is_cut_off_and_nothing_else(tmp_path: Path, torn: bytes) -> None:
    first = Journal(tmp_path)
    first.tags({"git": "abc"})
    first.close()
    with first.path.open("ab") as file:
        file.write(torn)
    assert [entry["seq"] for entry in journal.read(tmp_path)] == [0]
    second = Journal(tmp_path)
    second.tags({"git": "def"})
    assert [entry["values"]["git"] for entry in journal.read(tmp_path)] == ["abc", "def"]
    assert [entry["seq"] for entry in journal.read(tmp_path)] == [0, 1]


def test_numbers_that_json_lacks_come_back_as_numbers(tmp_path: Path) -> None:
    Journal(tmp_path).metrics(1, {"a": math.nan, "b": math.inf, "c": 2})
    for line in (tmp_path / journal.FILE).read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    (entry,) = journal.read(tmp_path)
    assert math.isnan(float(entry["values"]["a"]))
    assert float(entry["values"]["b"]) == math.inf


def test_an_artifact_outside_the_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="subpath"):
        Journal(tmp_path / "run").artifact(tmp_path / "elsewhere.png")


def test_a_folder_without_a_journal_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run"):
        list(journal.read(tmp_path))
