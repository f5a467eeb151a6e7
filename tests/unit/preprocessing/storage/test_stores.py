import errno
import pickle

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from preprocessing import retry as patience
from preprocessing.errors import UserError
from preprocessing.storage import local_store, unfinished
from preprocessing.storage.store import FsspecStore, StoreFullError, open_store


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    if request.param == "local":
        return open_store(tmp_path / "out")
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    return open_store("memory://bucket/out")


def test_round_trip_ranges_and_listing(store):
    store.write_atomic("a/b.bin", b"0123456789")
    store.write_atomic("a/c.bin", b"xy")
    store.write_atomic("top.bin", b"")
    assert store.read("a/b.bin") == b"0123456789"
    assert store.read("a/b.bin", 2, 5) == b"234"
    assert store.read("a/b.bin", 8) == b"89"
    assert store.list("a") == {"a/b.bin": 10, "a/c.bin": 2}
    assert store.list() == {"a/b.bin": 10, "a/c.bin": 2, "top.bin": 0}
    assert store.list("nowhere") == {}
    assert store.exists("a/b.bin")
    assert not store.exists("a")


def test_replace_and_delete(store):
    store.write_atomic("x", b"old")
    store.write_atomic("x", b"newer")
    assert store.read("x") == b"newer"
    store.delete("x")
    store.delete("x")
    assert not store.exists("x")
    with pytest.raises(FileNotFoundError):
        store.read("x")


def test_publish_moves_a_finished_file(store):
    local = store.scratch() / "work.tar"
    local.write_bytes(b"tar")
    store.publish(local, "shards/one.tar")
    assert store.read("shards/one.tar") == b"tar"
    assert not local.exists()


def test_survives_the_trip_to_a_worker(store):
    store.write_atomic("x", b"1")
    assert pickle.loads(pickle.dumps(store)).read("x") == b"1"


def test_nothing_shows_of_a_write_that_fails(tmp_path, monkeypatch):
    store = open_store(tmp_path)
    store.write_atomic("a", b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(local_store.os, "fsync", full)
    with pytest.raises(StoreFullError):
        store.write_atomic("a", b"new")
    assert store.read("a") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_is_being_written_does_not_show(tmp_path):
    store = open_store(tmp_path)
    store.write_atomic("a", b"1")
    (tmp_path / unfinished.unfinished_name()).write_bytes(b"half")
    assert store.list() == {"a": 1}


def test_failures_that_pass_are_tried_again(monkeypatch):
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.0)
    calls = []

    def flaky():
        calls.append(1)
        if len(calls) < 4:
            raise OSError(errno.ECONNRESET, "reset")
        return "done"

    assert patience.retry(flaky, "s3://b") == "done"
    assert len(calls) == 4


@pytest.mark.parametrize("error", [FileNotFoundError(), OSError(errno.ENOSPC, "full")])
def test_failures_that_stay_are_not(error):
    calls = []

    def broken():
        calls.append(1)
        raise error

    with pytest.raises(type(error)):
        patience.retry(broken, "s3://b")
    assert len(calls) == 1


def test_a_filesystem_without_objects_gets_a_rename(tmp_path):
    """On a mounted disk a half-written file under its final name would be visible."""
    filesystem = fsspec.filesystem("file")
    store = FsspecStore(f"sftp://host{tmp_path}", filesystem)
    store.__dict__["root"] = str(tmp_path)
    seen = []
    original = filesystem.mv
    filesystem.mv = lambda a, b: (seen.append((a, b)), original(a, b))
    try:
        store.write_atomic("d/x", b"data")
    finally:
        del filesystem.mv
    assert store.read("d/x") == b"data"
    assert [b for _, b in seen] == [f"{tmp_path}/d/x"]


def test_bad_places_are_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        open_store(tmp_path / "file")
    with pytest.raises(UserError, match="cannot open nothing://x"):
        open_store("nothing://x").list()
