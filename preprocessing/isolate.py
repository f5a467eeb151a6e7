"""Runs a function where it can be killed: hostile input may hang, crash or swallow memory, not us.

One child process is kept and used for source after source, so its start is paid once. It is
replaced after it had to be killed, and when it has kept too much memory. Results stream out as they
are made: what was ready before a crash is kept. The child is a fresh interpreter, not a fork:
threads, locks and handles of the parent never reach it.
"""

import atexit
import contextlib
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil

from preprocessing.heartbeat import heartbeat
from preprocessing.isolated_child import HEADER
from preprocessing.isolated_failure import Failure

__all__ = ["Failure", "Isolated", "heartbeat", "run_isolated", "shared_child", "stream_isolated"]

# Between looks at the child's memory; a kill follows a breach within about this long.
_POLL_S = 0.1
# What a cold child gets to start up and import before its own work is on the clock.
_START_LIMIT_S = 120.0
# What the end of a generator may take to follow its last item.
_LAST_WORD_S = 1.0
_MEGABYTE = 1 << 20
# A child that holds more than this between two pieces of work is replaced: after some eighty odd
# sources a decoder's heap is in pieces, and what it has leaked is never given back otherwise.
_REST_LIMIT_MB = 400


class Isolated:
    """A reusable child process, for one thread at a time; close it, or use it in a `with`."""

    def __init__(self) -> None:
        self._child: _Child | None = None
        # Children started so far: 1 plus those that were replaced.
        self.starts = 0

    def run(
        self,
        function: Callable[..., Any],
        *args: Any,
        time_limit_s: float,
        memory_limit_mb: int = 2048,
        stall_limit_s: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call `function(*args, **kwargs)` in the child and return its result, or a Failure.

        A generator's items come back as a list; a failure after some of them gives the Failure
        alone (`stream` keeps them). `function` must be importable by name in a fresh interpreter.
        """
        items: list[Any] = []
        result: Any = None
        for kind, value in self._messages(
            function, args, kwargs, time_limit_s, memory_limit_mb, stall_limit_s
        ):
            if kind == "item":
                items.append(value)
            elif kind == "generator_end":
                result = items
            else:
                result = value
        return result

    def stream(
        self,
        function: Callable[..., Iterator[Any]],
        *args: Any,
        time_limit_s: float,
        memory_limit_mb: int = 2048,
        stall_limit_s: float | None = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """Yield what the generator `function` yields in the child; the last item may be a Failure.

        Time the consumer spends between items is not on the clock. `stall_limit_s` bounds the time
        without an item or a `heartbeat()`: set it well under `time_limit_s` to catch hangs early.
        """
        for kind, value in self._messages(
            function, args, kwargs, time_limit_s, memory_limit_mb, stall_limit_s
        ):
            if kind == "item" or isinstance(value, Failure):
                yield value

    @property
    def peak_memory_mb(self) -> float:
        """Most memory the present child has held at once, in MB; 0.0 without one."""
        return 0.0 if self._child is None else self._child.peak_memory_mb()

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def __enter__(self) -> "Isolated":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _messages(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        time_limit_s: float,
        memory_limit_mb: int,
        stall_limit_s: float | None,
    ) -> Iterator[tuple[str, Any]]:
        call = pickle.dumps((function.__module__, function.__qualname__, args, kwargs))
        child = self._ready_child()
        finished = False
        try:
            child.send(pickle.dumps((call, memory_limit_mb, time_limit_s)))
            left_s = time_limit_s
            while True:
                wait_s = left_s if stall_limit_s is None else min(left_s, stall_limit_s)
                message, spent_s = child.receive(wait_s, memory_limit_mb)
                left_s -= spent_s
                if isinstance(message, Failure):
                    yield "failure", self._timed(message, left_s, time_limit_s, stall_limit_s)
                    return
                kind, value = message
                if kind == "beat":
                    if left_s <= 0:
                        yield "failure", Failure("timeout", f"not done within {time_limit_s:g} s")
                        return
                    continue
                finished = kind != "item" and not (
                    isinstance(value, Failure) and value.reason == "memory"
                )
                yield kind, value
                if kind != "item":
                    return
        except GeneratorExit:
            # A consumer that knows the last item when it sees it does not ask for the end.
            finished = finished or child.is_at_end()
            raise
        finally:
            # Left early, by failure or by a consumer that had enough: the child is in mid-work.
            if not finished:
                self.close()

    @staticmethod
    def _timed(
        failure: Failure, left_s: float, time_limit_s: float, stall_limit_s: float | None
    ) -> Failure:
        if failure.reason != "timeout":
            return failure
        if left_s <= 0 or stall_limit_s is None:
            return Failure("timeout", f"not done within {time_limit_s:g} s")
        return Failure("timeout", f"no progress for {stall_limit_s:g} s")

    def _ready_child(self) -> "_Child":
        child = self._child
        if child is None or not child.is_alive or child.memory_mb() > _REST_LIMIT_MB:
            self.close()
            child = self._child = _Child()
            self.starts += 1
        return child


class _Child:
    """The parent's end of one child process."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        try:
            # Linux sends the death signal when the *thread* that made the child ends, so one that
            # lives as long as this process makes them all.
            self._process = _spawner().submit(self._spawn, theirs).result()
        finally:
            theirs.close()
        self._socket = ours
        self._reader = psutil.Process(self._process.pid)
        started, _ = self.receive(_START_LIMIT_S, None)
        if isinstance(started, Failure):
            self.kill()
            raise RuntimeError(f"the isolated process did not start: {started.detail}")

    @staticmethod
    def _spawn(theirs: socket.socket) -> subprocess.Popen[bytes]:
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "preprocessing.isolated_child",
                str(theirs.fileno()),
                str(os.getpid()),
            ],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def send(self, message: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            # A child that died since shows itself in `receive`, with the reason.
            self._socket.sendall(HEADER.pack(len(message)) + message)

    def receive(self, limit_s: float, memory_limit_mb: int | None) -> tuple[Any, float]:
        """Return (the next message or a Failure, seconds waited)."""
        began = time.monotonic()
        data = bytearray()
        needed = HEADER.size
        have_header = False
        peak_mb = 0.0
        while True:
            left_s = limit_s - (time.monotonic() - began)
            if left_s <= 0:
                return Failure("timeout", f"not done within {limit_s:g} s"), limit_s
            readable, _, _ = select.select([self._socket], [], [], min(left_s, _POLL_S))
            if memory_limit_mb is not None:
                peak_mb = max(peak_mb, self.memory_mb())
                if peak_mb > memory_limit_mb:
                    detail = f"used {peak_mb:.0f} MB of the {memory_limit_mb} MB allowed"
                    return Failure("memory", detail), time.monotonic() - began
            if not readable:
                continue
            try:
                piece = self._socket.recv(min(needed - len(data), _MEGABYTE))
            except ConnectionResetError:
                piece = b""
            if not piece:
                return self._obituary(), time.monotonic() - began
            data += piece
            if len(data) < needed:
                continue
            if not have_header:
                needed, have_header = HEADER.unpack(data)[0], True
                data.clear()
                continue
            return pickle.loads(bytes(data)), time.monotonic() - began

    def is_at_end(self) -> bool:
        """Tell whether all that is left to come is the word that a generator has ended."""
        message, _ = self.receive(_LAST_WORD_S, None)
        while not isinstance(message, Failure) and message[0] == "beat":
            message, _ = self.receive(_LAST_WORD_S, None)
        return not isinstance(message, Failure) and message[0] == "generator_end"

    def memory_mb(self) -> float:
        """Return what the child holds now."""
        try:
            return self._reader.memory_info().rss / _MEGABYTE
        except psutil.Error:
            return 0.0

    def peak_memory_mb(self) -> float:
        try:
            with open(f"/proc/{self._process.pid}/status") as status:
                peak = next((line for line in status if line.startswith("VmHWM")), "VmHWM: 0")
        except OSError:
            return 0.0
        return int(peak.split()[1]) / 1024

    def _obituary(self) -> Failure:
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return Failure("crash", "the decoding process closed its channel and went on")
        if status < 0:
            name = signal.Signals(-status).name
            return Failure("crash", f"the decoding process was ended by {name}")
        return Failure("crash", f"the decoding process ended itself with status {status}")

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._socket.close()


_shared = threading.local()
_spawner_lock = threading.Lock()
_spawner_pool: list[ThreadPoolExecutor] = []


def _spawner() -> ThreadPoolExecutor:
    with _spawner_lock:
        if not _spawner_pool:
            _spawner_pool.append(ThreadPoolExecutor(1, thread_name_prefix="isolate"))
        return _spawner_pool[0]


def shared_child() -> Isolated:
    """Return this thread's own reusable child; it ends with the process."""
    if not hasattr(_shared, "isolated"):
        _shared.isolated = Isolated()
        atexit.register(_shared.isolated.close)
    isolated: Isolated = _shared.isolated
    return isolated


def run_isolated(
    function: Callable[..., Any],
    *args: Any,
    time_limit_s: float,
    memory_limit_mb: int = 2048,
    stall_limit_s: float | None = None,
    **kwargs: Any,
) -> Any:
    """Call `function` in this thread's reusable child; see `Isolated.run`."""
    return shared_child().run(
        function,
        *args,
        time_limit_s=time_limit_s,
        memory_limit_mb=memory_limit_mb,
        stall_limit_s=stall_limit_s,
        **kwargs,
    )


def stream_isolated(
    function: Callable[..., Iterator[Any]],
    *args: Any,
    time_limit_s: float,
    memory_limit_mb: int = 2048,
    stall_limit_s: float | None = None,
    **kwargs: Any,
) -> Iterator[Any]:
    """Yield from a generator run in this thread's reusable child; see `Isolated.stream`."""
    return shared_child().stream(
        function,
        *args,
        time_limit_s=time_limit_s,
        memory_limit_mb=memory_limit_mb,
        stall_limit_s=stall_limit_s,
        **kwargs,
    )
