"""Isolation: whatever the work does, the parent gets an answer, in time, and can go on."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import misbehaving
import psutil
import pytest

from preprocessing.heartbeat import heartbeat
from preprocessing.sandbox.isolate import (
    Failure,
    Isolated,
    run_isolated,
    stream_isolated,
)

# What a kill may take beyond the limit.
GRACE_S = 2.0


@pytest.fixture(scope="module")
def child():
    with Isolated() as child:
        child.run(misbehaving.add, 1, time_limit_s=30)
        yield child


def test_results_return_and_the_child_is_reused(child: Isolated) -> None:
    first = child.run(misbehaving.own_pid, time_limit_s=10)
    assert child.run(misbehaving.add, 2, right=3, time_limit_s=10) == 5
    assert child.run(misbehaving.own_pid, time_limit_s=10) == first
    assert first != os.getpid()
    assert 10 < child.peak_memory_mb < 1000


def test_a_leaking_child_is_replaced() -> None:
    with Isolated() as child:
        first = child.run(misbehaving.own_pid, time_limit_s=30)
        assert child.run(misbehaving.keep, 500, time_limit_s=30) == 500
        assert child.run(misbehaving.own_pid, time_limit_s=30) != first
        assert child.starts == 2
        assert child.peak_memory_mb < 400
        assert not psutil.pid_exists(first)


def test_a_child_with_large_models_is_kept() -> None:
    """Memory held since its first call is not a leak."""
    with Isolated() as child:
        assert child.run(misbehaving.keep, 500, time_limit_s=30) == 500
        first = child.run(misbehaving.own_pid, time_limit_s=30)
        assert child.run(misbehaving.own_pid, time_limit_s=30) == first
        assert child.starts == 1


def test_a_child_returns_freed_memory() -> None:
    """Freed frames lie beneath later allocations; the child still returns them to the system."""
    with Isolated() as child:
        first = child.run(misbehaving.own_pid, time_limit_s=30)
        assert child.run(misbehaving.leave_a_heap_in_pieces, 500, time_limit_s=30) == 7999
        assert child.run(misbehaving.own_pid, time_limit_s=30) == first
        assert child.peak_memory_mb > 500


def test_large_arguments_and_results(child: Isolated) -> None:
    assert child.run(misbehaving.length_of, bytes(20 << 20), time_limit_s=20) == 20 << 20
    assert len(child.run(misbehaving.big_result, 20, time_limit_s=20)) == 20 << 20


def test_a_child_uses_one_core(child: Isolated) -> None:
    assert child.run(misbehaving.opencv_threads, time_limit_s=30) == 1


def test_standard_streams_are_closed(child: Isolated) -> None:
    assert child.run(misbehaving.print_and_read, time_limit_s=10) == ""


@pytest.mark.parametrize(
    ("work", "args", "reason", "detail"),
    [
        (misbehaving.segfault, (), "crash", "SIGSEGV"),
        (misbehaving.abort, (), "crash", "SIGABRT"),
        (misbehaving.leave, (0,), "crash", "status 0"),
        (misbehaving.leave, (7,), "crash", "status 7"),
        (misbehaving.swallow_memory_at_once, (), "memory", "allocate"),
        (misbehaving.raise_surprise, (), "error", "KeyError"),
        (misbehaving.raise_decode_error, (), "truncated", "the end is missing"),
    ],
)
def test_reasons(child: Isolated, work, args: tuple, reason: str, detail: str) -> None:
    failure = child.run(work, *args, time_limit_s=20)
    assert isinstance(failure, Failure)
    assert not failure
    assert failure.reason == reason
    assert detail in failure.detail
    assert "\n" not in failure.detail
    assert bool(failure.traceback) == (reason == "error")
    assert child.run(misbehaving.add, 1, time_limit_s=20) == 2


@pytest.mark.parametrize("work", [misbehaving.spin_in_python, misbehaving.hang_in_native_code])
def test_a_hang_is_killed_in_time(child: Isolated, work) -> None:
    child.run(misbehaving.add, 1, time_limit_s=20)
    began = time.monotonic()
    failure = child.run(work, time_limit_s=1.0)
    assert time.monotonic() - began < 1.0 + GRACE_S
    assert failure == Failure("timeout", "not done within 1 s")


def test_a_stall_is_reported_before_the_time_limit(child: Isolated) -> None:
    child.run(misbehaving.add, 1, time_limit_s=20)
    began = time.monotonic()
    failure = child.run(misbehaving.beat_from_a_thread_and_hang, time_limit_s=60, stall_limit_s=1.0)
    assert time.monotonic() - began < 1.0 + 0.5 + GRACE_S
    assert failure == Failure("timeout", "no progress for 1 s")


def test_heartbeats_prevent_a_stall_but_not_the_time_limit(child: Isolated) -> None:
    assert child.run(misbehaving.beat_for, 6.0, time_limit_s=60, stall_limit_s=5.0) == "done"
    began = time.monotonic()
    failure = child.run(misbehaving.beat_for, 60, time_limit_s=1.0, stall_limit_s=0.9)
    assert failure.reason == "timeout"
    assert time.monotonic() - began < 1.0 + GRACE_S


@pytest.mark.parametrize("how", ["segfault", "raise_surprise", "hang_in_native_code"])
def test_a_failure_reports_progress(child: Isolated, how: str) -> None:
    """The value of the last heartbeat, even of a rapid series."""
    failure = child.run(misbehaving.go_to, 12345, how, time_limit_s=60, stall_limit_s=2.0)
    assert failure.reached == 12345
    assert child.run(misbehaving.go_to, 0, how, time_limit_s=60, stall_limit_s=2.0).reached == 0
    assert child.run(misbehaving.raise_surprise, time_limit_s=60).reached is None


def test_a_heartbeat_outside_isolation_does_nothing() -> None:
    heartbeat()


def test_memory_is_bounded(child: Isolated) -> None:
    began = time.monotonic()
    failure = child.run(misbehaving.swallow_memory, time_limit_s=60, memory_limit_mb=250)
    assert failure.reason == "memory"
    assert "250 MB" in failure.detail
    assert time.monotonic() - began < 30


def test_items_before_a_crash_are_kept(child: Isolated) -> None:
    *items, failure = child.stream(misbehaving.count_then, "segfault", 5, time_limit_s=20)
    assert items == [0, 1, 2, 3, 4]
    assert failure.reason == "crash"
    assert list(child.stream(misbehaving.count_then, "own_pid", 3, time_limit_s=20)) == [0, 1, 2]
    assert child.run(misbehaving.count_then, "own_pid", 3, time_limit_s=20) == [0, 1, 2]


def test_an_endless_stream_ends(child: Isolated) -> None:
    *items, failure = child.stream(misbehaving.count_for_ever, time_limit_s=0.6)
    assert failure.reason == "timeout"
    assert items


def test_a_consumer_may_stop_early_or_be_slow(child: Isolated) -> None:
    for item in child.stream(misbehaving.count_for_ever, time_limit_s=20):
        if item == 3:
            break
    slow = []
    for item in child.stream(
        misbehaving.count_then, "own_pid", 4, time_limit_s=5, stall_limit_s=0.5
    ):
        time.sleep(0.6)
        slow.append(item)
    assert slow == [0, 1, 2, 3]


def test_a_consumer_that_stops_at_the_last_item_keeps_the_child(child: Isolated) -> None:
    pid = child.run(misbehaving.own_pid, time_limit_s=20)
    for item in child.stream(misbehaving.count_then, "own_pid", 4, time_limit_s=20):
        if item == 3:
            break
    assert child.run(misbehaving.own_pid, time_limit_s=20) == pid


def test_each_thread_has_its_own_child() -> None:
    pids: list[int] = []

    def work() -> None:
        pids.append(run_isolated(misbehaving.own_pid, time_limit_s=30))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(pids)) == 2
    assert list(stream_isolated(misbehaving.count_then, "own_pid", 2, time_limit_s=30)) == [0, 1]


def test_a_child_outlives_the_thread_that_made_it() -> None:
    """The kernel's death signal is tied to the thread that starts a process."""
    child = Isolated()
    pids: list[int] = []
    thread = threading.Thread(
        target=lambda: pids.append(child.run(misbehaving.own_pid, time_limit_s=30))
    )
    thread.start()
    thread.join()
    time.sleep(0.2)
    assert child.run(misbehaving.own_pid, time_limit_s=30) == pids[0]
    child.close()


_PARENT = """
import sys, time
sys.path.insert(0, {folder!r})
import misbehaving
from preprocessing.sandbox.isolate import Isolated
child = Isolated()
print(child.run(misbehaving.own_pid, time_limit_s=30), flush=True)
child.run(misbehaving.hang_in_native_code, time_limit_s=1000)
"""


def test_the_child_dies_with_its_parent() -> None:
    """Even killed outright, and even while the child is stuck in native code."""
    code = _PARENT.format(folder=str(Path(__file__).parent))
    root = Path(__file__).resolve().parents[4]
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=root, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        time.sleep(0.3)
        parent.send_signal(signal.SIGKILL)
    end = time.monotonic() + 5
    while _is_running(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _is_running(pid)


def _is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_nothing_leaks_over_many_kills(child: Isolated) -> None:
    def handles() -> tuple[int, int]:
        here = psutil.Process()
        return here.num_fds(), len(here.children())

    child.run(misbehaving.add, 1, time_limit_s=20)
    before = handles()
    for _ in range(5):
        child.run(misbehaving.segfault, time_limit_s=20)
        child.run(misbehaving.add, 1, time_limit_s=20)
    assert handles() == before
