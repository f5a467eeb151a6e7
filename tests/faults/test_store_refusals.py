"""Commands on an object store that refuses: one line that says what mends it, and no traceback."""

import os
from collections.abc import Iterator

import fsspec
import pytest
from moving_faces import write_dataset
from s3_server import BUCKET, refuse_checksums, refuse_key, refuse_writes, s3_server

from pipelines.cli.main import EXIT_BAD_INPUT, run
from preprocessing import retry
from preprocessing.storage.index import read_index
from preprocessing.storage.sample import read_member
from preprocessing.storage.store import open_store

ROOT = f"s3://{BUCKET}"
READING = {
    "preprocess": ["preprocess", f"{ROOT}/faces", "OUT"],
    "dry run": ["preprocess", f"{ROOT}/faces", "OUT", "--dry-run"],
    "list": ["preprocess", f"{ROOT}/list.csv", "OUT"],
    "verify": ["verify", f"{ROOT}/faces"],
    "inspect": ["inspect", f"{ROOT}/faces"],
    "inspect a tar": ["inspect", f"{ROOT}/faces/shards/000000.tar"],
    "train": ["train", "tiny", "--data", f"{ROOT}/faces", "--run", "r", "--runs-dir", "OUT"],
    "upload": ["train", "tiny", "--data", "FACES", "--run", "r", "--runs-dir", "OUT",
               f"checkpoint.upload={ROOT}/up"],
}  # fmt: skip
WRITING = {
    "preprocess": ["preprocess", "FACES/clip.mp4", f"{ROOT}/out"],
    "synthesize": ["synthesize", f"{ROOT}/out", "--people", "1", "--seconds", "2"],
    "upload": READING["upload"],
    "champion": [
        "train",
        "tiny",
        "--data",
        "FACES",
        "--run",
        "r",
        "--runs-dir",
        "OUT",
        "--champion",
        f"{ROOT}/served",
    ],
}
# Listing sends no checksums, and asks for none.
LISTING = ("preprocess", "dry run", "upload")


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    root = write_dataset(tmp_path_factory.mktemp("faces"))
    (root / "clip.mp4").write_bytes(read_member(root, read_index(root).iloc[0], "mp4"))
    return root


@pytest.fixture
def server(faces, monkeypatch: pytest.MonkeyPatch) -> Iterator:
    monkeypatch.setattr(retry, "_FIRST_PAUSE_S", 0.0)
    with s3_server() as (environment, server):
        for name in environment.keys() - os.environ.keys():
            monkeypatch.setenv(name, environment[name])
        s3 = fsspec.filesystem("s3", skip_instance_cache=True)
        s3.put(str(faces), f"{BUCKET}/faces", recursive=True)
        s3.pipe(f"{BUCKET}/list.csv", b"source\nfaces/clip.mp4\n")
        type(s3).clear_instance_cache()
        yield server
        type(s3).clear_instance_cache()


@pytest.fixture
def refusal(faces, tmp_path, capsys):
    """Return a function that runs a command and returns its one line of error."""

    def run_refused(arguments: list[str], bucket: str = BUCKET) -> str:
        replaced = {"OUT": str(tmp_path / "out"), "FACES": str(faces)}
        for name, value in {**replaced, BUCKET: bucket}.items():
            arguments = [word.replace(name, value) for word in arguments]
        assert run(arguments) == EXIT_BAD_INPUT
        *_, line = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("error: ")
        return line

    return run_refused


@pytest.mark.parametrize("command", sorted(READING.keys() - LISTING))
def test_a_store_that_knows_no_checksums_names_the_variable(server, refusal, command):
    server.refuse = refuse_checksums
    assert "AWS_RESPONSE_CHECKSUM_VALIDATION=when_required" in refusal(READING[command])


@pytest.mark.parametrize("command", WRITING)
def test_a_store_that_knows_no_checksums_is_not_written(server, refusal, command):
    server.refuse = refuse_checksums
    assert "AWS_REQUEST_CHECKSUM_CALCULATION=when_required" in refusal(WRITING[command])


def test_the_variables_mend_it(server, monkeypatch):
    server.refuse = refuse_checksums
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    assert run(["verify", f"{ROOT}/faces"]) == 0
    store = open_store(f"{ROOT}/mended")
    store.write_atomic("large", bytes(2**24))
    local = store.scratch() / "x"
    local.write_bytes(b"abc")
    store.publish(local, "x")
    assert store.list() == {"large": 2**24, "x": 3}
    assert store.read("x") == b"abc"
    store.delete("x")
    assert not store.exists("x")


@pytest.mark.parametrize("command", READING)
def test_a_wrong_key_is_named(server, refusal, command):
    server.refuse = refuse_key
    line = refusal(READING[command])
    assert "check the credentials and what they allow (AWS_ACCESS_KEY_ID" in line
    assert ROOT in line


@pytest.mark.parametrize("command", [*READING, "out", "synthesize", "champion"])
def test_a_bucket_that_is_not_there_is_named(server, refusal, command):
    arguments = {**WRITING, **READING, "out": WRITING["preprocess"]}
    line = refusal(arguments[command], "not-there")
    assert "s3://not-there/" in line
    assert "bucket does not exist; create the bucket, or correct its name" in line


@pytest.mark.parametrize("command", WRITING)
def test_a_store_that_may_not_be_written_is_named(server, refusal, command):
    server.refuse = refuse_writes
    line = refusal(WRITING[command])
    assert f"error: {ROOT}/" in line
    assert "Access Denied; check the credentials" in line
