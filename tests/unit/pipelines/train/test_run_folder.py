"""What a run's folder allows, before any worker is started."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import nano_config

from pipelines.train.failures import root_cause
from pipelines.train.run_folder import is_open, open_folder, open_run
from preprocessing.errors import UserError


def test_a_new_folder_is_made_and_starts_from_nothing(tmp_path: Path) -> None:
    with open_run(tmp_path / "a" / "b", nano_config(), "auto") as folder:
        assert folder.path.is_dir()
        assert (folder.resumes_at, folder.complete) == (None, False)


def test_must_requires_a_checkpoint(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="no valid checkpoint"),
        open_run(tmp_path, nano_config(), "must"),
    ):
        pass


def test_a_url_is_refused_as_a_run_folder(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="set --runs-dir to a folder"),
        open_run(Path("s3://bucket/run"), nano_config(), "auto"),
    ):
        pass


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"), open_folder(tmp_path / "file" / "run"):
        pass


def test_a_second_process_is_refused_and_a_dead_ones_lock_is_not_kept(tmp_path: Path) -> None:
    hold = (
        "import fcntl, os, sys; f = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR);"
        "fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with (
        pytest.raises(UserError, match="being trained by another process"),
        open_folder(tmp_path),
    ):
        pass
    other.kill()
    other.wait()
    with open_folder(tmp_path) as path:
        assert path == tmp_path


def test_a_volume_without_locks_is_not_taken_for_a_running_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(UserError, match="cannot be locked") as refused, open_folder(tmp_path):
        pass
    assert os.strerror(errno.ENOLCK) in refused.value.what
    with pytest.raises(OSError, match=os.strerror(errno.ENOLCK)):
        is_open(tmp_path)


def test_the_root_cause_is_reported_and_not_its_consequences() -> None:
    def failure(rank: int, error: str) -> dict:
        return {"rank": rank, "node": "n", "error": error, "traceback": ""}

    closed = failure(1, "RuntimeError: [gloo/transport/tcp/pair.cc:525] Connection closed by peer")
    cause = failure(0, "ValueError: broken")
    assert root_cause([cause, closed]) is cause
    assert root_cause([closed, cause]) is cause
    assert root_cause([closed]) is closed
    assert root_cause([]) is None


def test_the_probe_of_an_upload_is_not_left(tmp_path: Path) -> None:
    config = nano_config(checkpoint__upload=str(tmp_path / "uploads"))
    with open_run(tmp_path / "a", config, "auto"):
        assert not [path for path in (tmp_path / "uploads").rglob("*") if path.is_file()]
