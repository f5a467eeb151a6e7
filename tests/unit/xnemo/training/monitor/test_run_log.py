"""Logs hold whole lines and stop nobody, also where the disk is full."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines.tracking import Journal, journal
from xnemo.training.monitor.run_log import AppendOnlyFile, RunLog, read_log


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """Let writes beyond a size fail, those across it in the middle, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_line_that_does_not_fit_leaves_nothing_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "log"
    file = AppendOnlyFile(path)
    assert file.append(b"first")
    with no_file_above(10):
        assert not file.append(b"second, torn")
        assert not file.append(b"third, torn")
        assert path.read_bytes() == b"first\n"
        assert file.append(b"4th")
    assert caplog.text.count("cannot be written") == 1
    assert file.append(b"fifth")
    file.close()
    assert path.read_bytes() == b"first\n4th\nfifth\n"


@pytest.mark.parametrize("torn", [b"ha", b"x" * 10_000])
def test_what_a_crash_tore_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"whole\n" + torn)
    file = AppendOnlyFile(path)
    file.append(b"next")
    file.close()
    assert path.read_bytes() == b"whole\nnext\n"


def test_log_and_journal_of_a_run_outlast_a_full_disk(tmp_path: Path) -> None:
    log, run = RunLog(tmp_path / "log.jsonl"), Journal(tmp_path)
    run.start(name="run", experiment="xnemo")
    log.write({"samples_seen": 1})
    with no_file_above((tmp_path / "journal.jsonl").stat().st_size + 20):
        for step in range(20):
            run.metrics(step, {"loss": 1.0})
            log.write({"samples_seen": 2, "text": "x" * 400})
    run.metrics(99, {"loss": 1.0})
    log.write({"samples_seen": 3})
    entries = list(journal.read(tmp_path))
    assert [e["seq"] for e in entries] == [0, 1]
    assert entries[-1]["step"] == 99
    assert [r["samples_seen"] for r in read_log(tmp_path / "log.jsonl")] == [1, 3]
