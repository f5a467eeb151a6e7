"""Work that goes wrong in every way there is; must be importable in a fresh interpreter."""

import ctypes
import os
import threading
import time
from collections.abc import Iterator

import cv2
import numpy as np

from preprocessing.decode import DecodeError
from preprocessing.heartbeat import heartbeat


def add(left: int, right: int = 1) -> int:
    return left + right


def own_pid() -> int:
    return os.getpid()


def opencv_threads() -> int:
    return cv2.getNumThreads()


def segfault() -> None:
    ctypes.string_at(0)


def leave(status: int) -> None:
    os._exit(status)


def abort() -> None:
    os.abort()


def spin_in_python() -> None:
    while True:
        pass


def hang_in_native_code() -> None:
    """Sleep for ever without letting go of the interpreter's lock, as a broken decoder does."""
    ctypes.PyDLL(None).sleep(10_000)


_kept: list[np.ndarray] = []


def keep(megabytes: int) -> int:
    """Hold on to memory after the work is done, as a leak does."""
    _kept.append(np.ones(megabytes << 20, np.uint8))
    return len(_kept[-1]) >> 20


def leave_a_heap_in_pieces(megabytes: int) -> int:
    """Free nearly all that was held, but not the last of it, beneath which the C library waits."""
    pieces = [np.ones(1 << 16, np.uint8) for _ in range(megabytes << 4)]
    _kept.append(pieces.pop())
    return len(pieces)


def swallow_memory() -> None:
    kept = []
    while True:
        kept.append(np.ones(1 << 20))


def swallow_memory_at_once() -> float:
    return float(np.ones(1 << 40).sum())


def raise_surprise() -> None:
    raise KeyError("no such\nthing")


def raise_decode_error() -> None:
    raise DecodeError("truncated", "the end is missing")


def count_then(what: str, count: int) -> Iterator[int]:
    yield from range(count)
    globals()[what]()


def count_for_ever() -> Iterator[int]:
    number = 0
    while True:
        time.sleep(0.01)
        yield number
        number += 1


def beat_for(seconds: float) -> str:
    """Take long, but show that work goes on."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.02)
        heartbeat()
    return "done"


def beat_from_a_thread_and_hang() -> None:
    """A hang that a careless watchdog would take for progress."""
    ready = threading.Event()
    threading.Thread(target=lambda: (time.sleep(0.2), ready.set()), daemon=True).start()
    ready.wait()
    hang_in_native_code()


def go_to(at: int, how: str) -> None:
    """Say how far the work has come, many times, then go wrong."""
    for place in range(at + 1):
        heartbeat(place)
    globals()[how]()


def big_result(megabytes: int) -> bytes:
    return bytes(megabytes << 20)


def length_of(data: bytes) -> int:
    return len(data)


def print_and_read() -> str:
    """Noise on the standard streams must not reach the channel, nor block."""
    import sys

    print("x" * 100_000)
    sys.stderr.write("y" * 100_000)
    return sys.stdin.read()
