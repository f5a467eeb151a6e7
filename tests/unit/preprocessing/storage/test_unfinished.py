"""Files that are being written, and who is taken to be still writing them."""

import os
import subprocess
import sys
import time

import pytest

from preprocessing.storage.local_store import LocalStore
from preprocessing.storage.unfinished import is_abandoned, unfinished_name

NAME = (
    "from preprocessing.storage.unfinished import unfinished_name;"
    " print(unfinished_name(), flush=True)"
)


def begun_by(code: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_a_file_of_a_living_process_is_left_alone(tmp_path):
    own = tmp_path / unfinished_name()
    process, name = begun_by(f"{NAME}; input()")
    try:
        others = tmp_path / name
        own.touch(), others.touch()
        LocalStore(tmp_path).sweep()
        assert own.exists()
        assert others.exists()
    finally:
        process.kill()
        process.communicate()


def test_a_file_of_a_dead_process_is_removed_even_where_nobody_has_buried_it(tmp_path):
    process, name = begun_by(NAME)
    path = tmp_path / "sub" / name
    path.parent.mkdir()
    path.touch()
    deadline = time.monotonic() + 20
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        assert time.monotonic() < deadline
    assert is_abandoned(path)
    LocalStore(tmp_path).sweep()
    assert not path.exists()
    process.communicate()


def test_a_number_that_is_another_process_s_by_now_keeps_nothing_alive(tmp_path):
    head, start, tail = unfinished_name().rsplit("-", 2)
    assert start.isdigit()
    assert is_abandoned(tmp_path / f"{head}-{int(start) - 1}-{tail}")


@pytest.mark.parametrize("name", [".unfinished-far-away-12-34-abcdef012345", ".unfinished-x"])
def test_another_machine_s_file_is_given_a_day(tmp_path, name):
    path = tmp_path / name
    path.touch()
    assert not is_abandoned(path)
    os.utime(path, (time.time() - 90_000,) * 2)
    assert is_abandoned(path)
