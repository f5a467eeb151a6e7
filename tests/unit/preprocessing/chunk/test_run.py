"""What becomes of a chunk whose decoder hangs, crashes or refuses."""

import os
import time
from dataclasses import replace

import pytest

from preprocessing.chunk import run as chunk_run
from preprocessing.chunk.output import read_output, read_output_member
from preprocessing.chunk.records import Chunk, ChunkEnd, ClipResult
from preprocessing.config import DecodeConfig, PreprocessConfig
from preprocessing.heartbeat import heartbeat
from preprocessing.sandbox.isolate import Failure
from preprocessing.storage.location import location_status
from preprocessing.storage.store import open_store

CHUNK = Chunk("/x", "x.mp4", "ab", "", 0, origin_us=0, seconds=20.0)


def clip(start_ms, status="kept"):
    row = {"start_ms": start_ms, "status": status, "reason": "", "duration_s": 2.0, "track": 0}
    return ClipResult(row, b"mp4" * 10, b"npz", b"jpg")


def fake(monkeypatch, damage_at_s, failure, length_s=20.0):
    """Replace the child by one that fails at a place; one clip a second comes out."""
    stretches = []

    def stream(chunk, config):
        start = chunk.decode_from_s or 0.0
        end = min(length_s, chunk.decode_to_s if chunk.decode_to_s is not None else length_s)
        stretches.append((start, end))
        second = start
        while second < end:
            if start <= damage_at_s < end and second >= damage_at_s:
                yield replace(failure, reached=int((damage_at_s - 0.1) * 1e6))
                return
            yield clip(int(second * 1000))
            second += 1.0
        yield ChunkEnd((0,), int((end - start) * 25), 1, (), {"decode": 1.0})

    monkeypatch.setattr(chunk_run, "_stream", stream)
    return stretches


def test_a_crash_in_the_middle_costs_its_surroundings_only(monkeypatch, tmp_path):
    stretches = fake(monkeypatch, 10.0, Failure("crash", "ended by SIGSEGV"))
    store = open_store(tmp_path)
    record = chunk_run.run_chunk(CHUNK, "p.tar", store, PreprocessConfig())
    assert stretches[0] == (0.0, 20.0)
    # The stretch before is done again up to the place, the stretch after from beyond it.
    (_, before_end), (after_start, after_end) = stretches[1:]
    assert 9 <= before_end < 10 < after_start <= 11
    assert after_end == 20.0
    content = read_output(store, "p.tar")
    starts = [row["start_ms"] for row in content.rows]
    assert len(starts) == len(set(starts))
    assert len(starts) >= 18
    assert [d["reason"] for d in content.damage] == ["crash"]
    assert record.status == "done"
    assert record.damage == 1


def test_a_source_that_yields_nothing_gives_an_output_that_says_so(monkeypatch, tmp_path):
    def stream(chunk, config):
        yield Failure("no_frames", "a video stream without one frame")

    monkeypatch.setattr(chunk_run, "_stream", stream)
    store = open_store(tmp_path)
    record = chunk_run.run_chunk(CHUNK, "p.tar", store, PreprocessConfig())
    content = read_output(store, "p.tar")
    assert content.rows == []
    assert content.damage[0]["reason"] == "no_frames"
    assert record.kept == 0


@pytest.mark.parametrize(
    ("meanwhile", "reasons"),
    [
        (lambda path: None, []),
        (lambda path: path.unlink(), []),
        (lambda path: path.write_bytes(b"another, longer"), ["changed"]),
        (lambda path: os.utime(path, (1, 1)), ["changed"]),
    ],
)
def test_clips_of_a_source_that_changes_meanwhile_are_not_kept(
    monkeypatch, tmp_path, meanwhile, reasons
):
    """They would bear the checksum of what lay there before."""
    path = tmp_path / "x.mp4"
    path.write_bytes(b"one")
    size, stamp = location_status(str(path))
    chunk = replace(CHUNK, location=str(path), size=size, stamp=stamp)

    def stream(chunk, config):
        yield clip(0)
        meanwhile(path)
        yield ChunkEnd((0,), 50, 1, (), {})

    monkeypatch.setattr(chunk_run, "_stream", stream)
    store = open_store(tmp_path / "out")
    record = chunk_run.run_chunk(chunk, "p.tar", store, PreprocessConfig())
    assert [d["reason"] for d in read_output(store, "p.tar").damage] == reasons
    assert record.clips == (0 if reasons else 1)


def test_failures_everywhere_come_to_an_end(monkeypatch, tmp_path):
    calls = []

    def stream(chunk, config):
        calls.append(chunk)
        reached_us = int(((chunk.decode_from_s or 0) + 1) * 1e6)
        yield Failure("timeout", "no progress", reached=reached_us)

    monkeypatch.setattr(chunk_run, "_stream", stream)
    record = chunk_run.run_chunk(CHUNK, "p.tar", open_store(tmp_path), PreprocessConfig())
    assert len(calls) < 20
    assert record.damage >= 4


def test_members_are_found_in_a_chunk_output(monkeypatch, tmp_path):
    fake(monkeypatch, 99.0, None, length_s=3.0)
    store = open_store(tmp_path)
    chunk_run.run_chunk(CHUNK, "a/p.tar", store, PreprocessConfig())
    for row in read_output(store, "a/p.tar").rows:
        assert read_output_member(store, row, "mp4") == b"mp4" * 10
        assert read_output_member(store, row, "jpg") == b"jpg"
    import tarfile

    with tarfile.open(tmp_path / "a" / "p.tar") as archive:
        assert archive.getnames()[:4] == ["chunk.json", "00000.mp4", "00000.npz", "00000.jpg"]


def counted(chunk, config):
    global calls
    calls += 1
    yield ChunkEnd((), calls, 0, (), {})


calls = 0


def test_the_child_is_kept_from_chunk_to_chunk(monkeypatch, tmp_path):
    """Its detector is loaded once; a new child for every chunk would cost more than the chunk."""
    monkeypatch.setattr(chunk_run, "process_chunk", counted)
    store = open_store(tmp_path)
    frames = [
        chunk_run.run_chunk(CHUNK, f"{n}.tar", store, PreprocessConfig()).frames for n in range(3)
    ]
    assert frames == [1, 2, 3]


def hang(chunk, config):
    heartbeat(1_000_000)
    time.sleep(60)
    yield


@pytest.mark.slow
def test_a_hang_is_ended_by_the_stall_limit(monkeypatch, tmp_path):
    monkeypatch.setattr(chunk_run, "process_chunk", hang)
    config = PreprocessConfig(decode=DecodeConfig(stall_limit_s=1.0))
    began = time.monotonic()
    chunk_run.run_chunk(CHUNK, "p.tar", open_store(tmp_path), config)
    assert time.monotonic() - began < 40
