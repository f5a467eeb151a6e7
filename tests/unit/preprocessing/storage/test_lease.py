"""Two jobs never write one data set, and a dead job's lease holds nobody up."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import fsspec
import pytest

from preprocessing.errors import UserError
from preprocessing.storage.lease import Owner, hold_lease
from preprocessing.storage.store import Store, open_store

NAME = "_work/lease.json"


@pytest.fixture(params=["folder", "url"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return open_store(tmp_path / "out")
    fsspec.filesystem("memory").store.clear()
    return open_store("memory://lease-test")


def write(store: Store, **changes: object) -> None:
    """Write the lease of another job."""
    here = Owner.here()
    content = {"token": "x", "host": here.host, "pid": here.pid, "started": here.started}
    store.write_atomic(NAME, json.dumps({**content, "renewed": 0, **changes}).encode())


def test_a_second_job_is_refused_until_the_first_ends(store: Store) -> None:
    with hold_lease(store):
        refused = pytest.raises(UserError, match=r"another job writes .*: process \d+ on")
        with refused, hold_lease(store):
            pass
        assert store.exists(NAME)
    assert not store.exists(NAME)
    with hold_lease(store):
        pass


def test_a_killed_process_of_this_machine_is_followed_at_once(tmp_path: Path) -> None:
    hold = (
        "import sys; from preprocessing.storage.lease import hold_lease\n"
        "from preprocessing.storage.store import open_store\n"
        "with hold_lease(open_store(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    store = open_store(tmp_path)
    with pytest.raises(UserError, match=f"process {other.pid}"), hold_lease(store):
        pass
    other.kill()
    other.wait()
    with hold_lease(store, expire_s=3600):
        assert store.exists(NAME)


def test_a_process_id_that_is_used_again_is_not_the_owner(store: Store) -> None:
    write(store, started=1.0)
    with hold_lease(store, expire_s=3600):
        pass


def test_another_machines_lease_is_taken_once_it_is_not_renewed(store: Store) -> None:
    write(store, host="elsewhere")
    with hold_lease(store, expire_s=0.5):
        assert json.loads(store.read(NAME))["host"] != "elsewhere"


def test_another_machines_lease_that_is_renewed_is_respected(store: Store) -> None:
    write(store, host="elsewhere")
    renewal = threading.Timer(0.2, lambda: write(store, host="elsewhere", renewed=1))
    renewal.start()
    with pytest.raises(UserError, match="on elsewhere"), hold_lease(store, expire_s=30):
        pass
    renewal.join()


def test_a_long_job_renews(store: Store) -> None:
    with hold_lease(store, renew_s=0.05):
        first = json.loads(store.read(NAME))["renewed"]
        threading.Event().wait(0.5)
        assert json.loads(store.read(NAME))["renewed"] > first


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"token": 1}'])
def test_a_damaged_lease_holds_nobody_up(store: Store, content: bytes) -> None:
    store.write_atomic(NAME, content)
    with hold_lease(store):
        pass
