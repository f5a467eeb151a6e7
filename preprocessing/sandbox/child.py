"""Child process of `preprocessing.sandbox.isolate`: serves calls until it is killed.

Started as `python -m preprocessing.sandbox.child FD PARENT MARK`.
"""

import ctypes
import gc
import importlib
import inspect
import mmap
import os
import pickle
import resource
import signal
import socket
import struct
import sys
import time
import traceback
from typing import Any

from preprocessing.heartbeat import listen
from preprocessing.sandbox.failure import Failure, failure_of

HEADER = struct.Struct(">Q")
#: Progress of the work, in shared memory that the parent can read after a crash.
MARK = struct.Struct("=q")
_MEGABYTE = 1 << 20
_PR_SET_PDEATHSIG = 1
# Above this much memory after a call, the child returns free memory to the system: the C library
# keeps freed buffers, which fragment a decoder's heap.
_REST_MB = 256
# Address space beyond the limit on resident memory: libraries map far more than they use.
_ADDRESS_SLACK_MB = 4096
_channel: socket.socket | None = None


def main(descriptor: int, parent: int, mark: int) -> None:
    """Serve calls from the socket `descriptor` until it closes or the process `parent` is gone.

    `mark` is the descriptor of the shared memory for `MARK`.
    """
    global _channel
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return  # the parent died before the line above took effect
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _channel = socket.socket(fileno=descriptor)
    memory = mmap.mmap(mark, MARK.size)
    listen(lambda: _send("beat", None), lambda at: MARK.pack_into(memory, 0, at))
    _send("ready", None)
    while (request := _receive()) is not None:
        _serve(request)


def _serve(request: bytes) -> None:
    try:
        call, memory_limit_mb, time_limit_s = pickle.loads(request)
        _limit_address_space(memory_limit_mb)
        module, name, args, kwargs = pickle.loads(call)
        function: Any = importlib.import_module(module)
        for part in name.split("."):
            function = getattr(function, part)
        result = function(*args, **kwargs)
        if inspect.isgenerator(result):
            _send_items(result, time_limit_s)
            return
        message = pickle.dumps(("result", result))
        del result
    except BaseException as error:
        message = pickle.dumps(("failure", failure_of(error, traceback.format_exc())))
    _trim_memory()
    _send_bytes(message)


def _send_items(items: Any, time_limit_s: float) -> None:
    """Send a generator's items; time spent waiting for a slow consumer does not count."""
    busy_s = 0.0
    while True:
        began = time.monotonic()
        try:
            item = next(items)
        except StopIteration:
            _trim_memory()
            _send("generator_end", None)
            return
        busy_s += time.monotonic() - began
        if busy_s > time_limit_s:
            _send("failure", Failure("timeout", f"not done within {time_limit_s:g} s"))
            return
        _send("item", item)


def _limit_address_space(memory_limit_mb: int) -> None:
    """Make an allocation far beyond the limit fail at once; the parent watches resident memory."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = _memory()[0] + (memory_limit_mb + _ADDRESS_SLACK_MB) * _MEGABYTE
    if hard != resource.RLIM_INFINITY:
        soft = min(soft, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _trim_memory() -> None:
    """Return freed memory to the system, so that the parent does not replace this process."""
    if _memory()[1] <= _REST_MB * _MEGABYTE:
        return
    # A frame whose side data were read is in a reference cycle, with its decoder's whole pool.
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _memory() -> tuple[int, int]:
    """Return bytes of address space and bytes in memory."""
    with open("/proc/self/statm") as statm:
        mapped, resident = (int(pages) for pages in statm.read().split()[:2])
    return mapped * resource.getpagesize(), resident * resource.getpagesize()


def _send(kind: str, value: Any) -> None:
    _send_bytes(pickle.dumps((kind, value)))


def _send_bytes(message: bytes) -> None:
    assert _channel is not None
    _channel.sendall(HEADER.pack(len(message)) + message)


def _receive() -> bytes | None:
    assert _channel is not None
    header = _exactly(HEADER.size)
    return None if header is None else _exactly(HEADER.unpack(header)[0])


def _exactly(count: int) -> bytes | None:
    assert _channel is not None
    data = bytearray()
    while len(data) < count:
        piece = _channel.recv(min(count - len(data), _MEGABYTE))
        if not piece:
            return None
        data += piece
    return bytes(data)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:4]))
