"""Parent's end of a child process: starts it, exchanges messages, watches memory and kills it."""

import contextlib
import mmap
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil

from preprocessing.sandbox.child import HEADER, MARK
from preprocessing.sandbox.failure import Failure

# Interval of memory checks; a child over its limit is killed within about this time.
_POLL_S = 0.1
# Time for the child to start and import, before the time limit of its work starts.
_START_LIMIT_S = 120.0
# Longest time from a generator's last item to its end.
_END_WAIT_S = 1.0
_MEGABYTE = 1 << 20
_NOWHERE = -(1 << 63)


class KillableChild:
    """One child process; for one thread at a time."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        mark = os.memfd_create("mark")
        try:
            os.ftruncate(mark, MARK.size)
            self._mark = mmap.mmap(mark, MARK.size)
            # Linux sends the parent-death signal when the *thread* that made the child ends, so one
            # thread that lives as long as this process makes them all.
            self._process = _spawner().submit(self._spawn, theirs, mark).result()
        finally:
            theirs.close()
            os.close(mark)
        self._socket = ours
        self._reader = psutil.Process(self._process.pid)
        self._received = bytearray()
        self._checked_at = 0.0
        started, _ = self.receive(_START_LIMIT_S, None)
        if isinstance(started, Failure):
            self.kill()
            raise RuntimeError(f"the isolated process did not start: {started.detail}")

    @staticmethod
    def _spawn(theirs: socket.socket, mark: int) -> subprocess.Popen[bytes]:
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
        # There is one child per core; OpenCV in each would start a thread per core.
        environment.setdefault("OPENCV_FOR_THREADS_NUM", "1")
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "preprocessing.sandbox.child",
                str(theirs.fileno()),
                str(os.getpid()),
                str(mark),
            ],
            pass_fds=[theirs.fileno(), mark],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def send(self, message: bytes) -> None:
        """Send a request; `receive` reads the replies."""
        MARK.pack_into(self._mark, 0, _NOWHERE)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            # If the child has died, `receive` returns the reason.
            self._socket.sendall(HEADER.pack(len(message)) + message)

    @property
    def reached(self) -> int | None:
        """Last progress reported by the current request; see `heartbeat`."""
        at: int = MARK.unpack_from(self._mark)[0]
        return None if at == _NOWHERE else at

    def receive(self, limit_s: float, memory_limit_mb: int | None) -> tuple[Any, float]:
        """Return (the next message or a Failure, seconds waited)."""
        began = time.monotonic()
        while (message := self._next_message()) is None:
            left_s = limit_s - (time.monotonic() - began)
            if left_s <= 0:
                return Failure("timeout", f"not done within {limit_s:g} s"), limit_s
            readable, _, _ = select.select([self._socket], [], [], min(left_s, _POLL_S))
            if memory_limit_mb is not None:
                breach = self._breach(memory_limit_mb)
                if breach is not None:
                    return breach, time.monotonic() - began
            if not readable:
                continue
            try:
                piece = self._socket.recv(_MEGABYTE)
            except ConnectionResetError:
                piece = b""
            if not piece:
                return self._exit_failure(), time.monotonic() - began
            self._received += piece
        return pickle.loads(message), time.monotonic() - began

    def _next_message(self) -> bytes | None:
        """Take a complete message from the received bytes, or None."""
        if len(self._received) < HEADER.size:
            return None
        end = HEADER.size + HEADER.unpack_from(self._received)[0]
        if len(self._received) < end:
            return None
        message = bytes(self._received[HEADER.size : end])
        del self._received[:end]
        return message

    def _breach(self, memory_limit_mb: int) -> Failure | None:
        """Check the child's memory if the last check is old; return a Failure above the limit."""
        now = time.monotonic()
        # Half, because a wait of the full length may end slightly early.
        if now - self._checked_at < _POLL_S / 2:
            return None
        self._checked_at = now
        held_mb = self.memory_mb()
        if held_mb <= memory_limit_mb:
            return None
        return Failure("memory", f"used {held_mb:.0f} MB of the {memory_limit_mb} MB allowed")

    def is_at_end(self) -> bool:
        """Wait briefly for the next message; return whether it is a generator's end."""
        message, _ = self.receive(_END_WAIT_S, None)
        while not isinstance(message, Failure) and message[0] == "beat":
            message, _ = self.receive(_END_WAIT_S, None)
        return not isinstance(message, Failure) and message[0] == "generator_end"

    def memory_mb(self) -> float:
        """Return the resident memory in MB."""
        try:
            return self._reader.memory_info().rss / _MEGABYTE
        except psutil.Error:
            return 0.0

    def peak_memory_mb(self) -> float:
        """Return the peak resident memory in MB; 0.0 where the process is gone."""
        return peak_memory_mb(self._process.pid)

    def _exit_failure(self) -> Failure:
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return Failure("crash", "the decoding process closed its channel but did not exit")
        if status < 0:
            name = signal.Signals(-status).name
            return Failure("crash", f"the decoding process was killed by {name}")
        return Failure("crash", f"the decoding process exited with status {status}")

    def kill(self) -> None:
        """Kill the process and all its descendants."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._socket.close()


_spawner_lock = threading.Lock()
_spawner_pool: list[ThreadPoolExecutor] = []


def _spawner() -> ThreadPoolExecutor:
    with _spawner_lock:
        if not _spawner_pool:
            _spawner_pool.append(ThreadPoolExecutor(1, thread_name_prefix="isolate"))
        return _spawner_pool[0]


def peak_memory_mb(pid: int) -> float:
    """Return the largest resident size of a process so far in MB; 0.0 where it is gone.

    `getrusage` does not serve: its figure for a process starts at the peak of its parent.
    """
    try:
        with open(f"/proc/{pid}/status") as status:
            peak = next((line for line in status if line.startswith("VmHWM")), "VmHWM: 0")
    except OSError:
        return 0.0
    return int(peak.split()[1]) / 1024
