"""The run log survives crashes and a full disk."""

import json
import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from preprocessing.errors import UserError
from xnemo.training.monitor import run_log
from xnemo.training.monitor.run_log import RunLog, measurements, read_log, read_records


def numbers(run_dir: Path) -> list[int]:
    return [record["seq"] for record in read_records(run_dir)]


def test_records_are_numbered_across_restarts_and_the_key_stays(tmp_path: Path) -> None:
    first = RunLog(tmp_path)
    key = first.start(name="a", experiment="xnemo")
    first.metrics(4, {"loss": 1.5})
    first.close()
    second = RunLog(tmp_path)
    assert second.start(name="a", experiment="xnemo") == key == run_log.run_key(tmp_path)
    second.metrics(8, {"loss": 1.0})
    assert numbers(tmp_path) == [0, 1, 2, 3]
    assert second.length == 4
    assert [r["samples_seen"] for r in read_log(tmp_path)] == [4, 8]


def test_a_log_is_ended_by_its_last_record_alone(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.end("KILLED")
    assert log.ended
    log.start(name="a", experiment="xnemo")
    assert not log.ended
    log.end("FINISHED")
    assert RunLog(tmp_path).ended


@pytest.mark.parametrize("torn", [b'{"seq": 1, "ki', b"x" * 10_000])
def test_a_line_torn_by_a_crash_is_cut_off_and_nothing_else(tmp_path: Path, torn: bytes) -> None:
    first = RunLog(tmp_path)
    first.tags({"git": "abc"})
    first.close()
    with first.path.open("ab") as file:
        file.write(torn)
    assert numbers(tmp_path) == [0]
    second = RunLog(tmp_path)
    second.tags({"git": "def"})
    assert [record["values"]["git"] for record in read_records(tmp_path)] == ["abc", "def"]
    assert numbers(tmp_path) == [0, 1]


def test_lines_that_are_not_records_are_skipped(tmp_path: Path) -> None:
    RunLog(tmp_path).tags({"git": "abc"})
    with (tmp_path / run_log.FILE).open("ab") as file:
        file.write(b'\0\0\0\n17\n{"samples_seen": 4, "loss": 1.0}\n')
    RunLog(tmp_path).tags({"git": "def"})
    assert numbers(tmp_path) == [0, 1]


def test_repeated_steps_count_once(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    for seen in (4, 8, 12):
        log.metrics(seen, {"loss": float("nan")})
    log.event({"event": "resumed", "samples_seen": 4})
    log.artifact(tmp_path / "a.png")
    log.metrics(8, {"loss": 2.0})
    records = read_log(tmp_path)
    assert [r["samples_seen"] for r in records] == [4, 4, 8]
    assert records[0]["loss"] is None
    assert records[-1]["loss"] == 2.0
    assert len(numbers(tmp_path)) == 6


def test_numbers_that_json_lacks_come_back_as_numbers(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.metrics(1, {"a": math.nan, "b": math.inf, "c": 2})
    log.event({"event": "loss spike", "samples_seen": 1, "losses": [math.nan]})
    for line in log.path.read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    metrics, event = read_records(tmp_path)
    assert math.isnan(measurements(metrics)["a"])
    assert measurements(metrics) | {"a": 0} == {"a": 0, "b": math.inf, "c": 2.0}
    assert event["losses"] == ["nan"]


def test_the_time_of_a_measurement_is_kept(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.metrics(1, {"a": 1.0}, at=12.3456)
    log.event({"event": "checkpoint", "samples_seen": 1, "time": 13.0})
    assert [r["time"] for r in read_log(tmp_path)] == [12.346, 13.0]


def test_an_artifact_outside_the_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="subpath"):
        RunLog(tmp_path / "run").artifact(tmp_path / "elsewhere.png")


def test_a_folder_without_a_log_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run"):
        list(read_records(tmp_path))


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """Let writes beyond a size fail, those across it in the middle, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_drops_whole_lines_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = RunLog(tmp_path)
    log.start(name="run", experiment="xnemo")
    whole = log.path.read_bytes()
    with no_file_above(len(whole) + 20):
        for step in range(20):
            log.metrics(step, {"loss": 1.0})
        assert log.path.read_bytes() == whole
    assert caplog.text.count("cannot write") == 1
    log.metrics(99, {"loss": 1.0})
    assert numbers(tmp_path) == [0, 1]
    assert [r["samples_seen"] for r in read_log(tmp_path)] == [99]
