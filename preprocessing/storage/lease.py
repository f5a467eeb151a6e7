"""A lease on a store: one job at a time writes a data set, also where files cannot be locked."""

import json
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

import psutil

from preprocessing.errors import UserError
from preprocessing.storage.store import Store

_NAME = "_work/lease.json"
# Seconds between renewals, and after which a lease that was not renewed is another's to take.
RENEW_S, EXPIRE_S = 15.0, 60.0


@dataclass(frozen=True)
class Owner:
    """The process that holds a lease."""

    token: str
    host: str
    pid: int
    # Start of the process, because process ids are used again.
    started: float

    @classmethod
    def here(cls) -> "Owner":
        """Return this process, with a token of this call."""
        process = psutil.Process()
        return cls(uuid.uuid4().hex, socket.gethostname(), process.pid, process.create_time())

    def is_dead(self) -> bool:
        """Return whether this was a process of this machine that no longer runs."""
        if self.host != socket.gethostname():
            return False
        try:
            return psutil.Process(self.pid).create_time() != self.started
        except psutil.NoSuchProcess:
            return True


@contextmanager
def hold_lease(
    store: Store, *, renew_s: float = RENEW_S, expire_s: float = EXPIRE_S
) -> Iterator[None]:
    """Hold the lease of a store for the length of a block.

    The lease of a killed process of this machine is taken over at once, that of another machine
    once it has not been renewed for `expire_s`. No clock is compared with another machine's.

    Raises:
        UserError: another job holds the lease.
    """
    _wait_until_free(store, expire_s)
    owner = Owner.here()
    _write(store, owner, 0)
    # Of two that start at the same moment, the one that wrote last has it.
    found = _read(store)
    if found is None or found[0] != owner:
        raise _refusal(store, found[0] if found else owner)
    over = threading.Event()
    renewal = threading.Thread(
        target=_renew, args=(store, owner, over, renew_s), name="lease", daemon=True
    )
    renewal.start()
    try:
        yield
    finally:
        over.set()
        renewal.join()
        # A store that is away must not hide the job's own error; the lease expires.
        with suppress(OSError):
            found = _read(store)
            if found is not None and found[0] == owner:
                store.delete(_NAME)


def _wait_until_free(store: Store, expire_s: float) -> None:
    first = _read(store)
    if first is None or first[0].is_dead():
        return
    if first[0].host == socket.gethostname():
        # It runs: there is nothing to wait for.
        raise _refusal(store, first[0])
    deadline = time.monotonic() + expire_s
    while time.monotonic() < deadline:
        time.sleep(min(1.0, expire_s / 10))
        now = _read(store)
        if now is None:
            return
        if now != first:
            raise _refusal(store, now[0])


def _renew(store: Store, owner: Owner, over: threading.Event, renew_s: float) -> None:
    count = 0
    while not over.wait(renew_s):
        count += 1
        try:
            _write(store, owner, count)
        except OSError:
            # The store is away; the job itself will report it if that lasts.
            continue


def _write(store: Store, owner: Owner, count: int) -> None:
    store.write_atomic(_NAME, json.dumps(asdict(owner) | {"renewed": count}).encode())


def _read(store: Store) -> tuple[Owner, int] | None:
    """Return who holds the lease, and how often it was renewed; None for nobody."""
    if not store.exists(_NAME):
        return None
    try:
        content = json.loads(store.read(_NAME))
        count = int(content.pop("renewed"))
        return Owner(**content), count
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        # Not a lease of this version; it holds nothing back.
        return None


def _refusal(store: Store, owner: Owner) -> UserError:
    return UserError(
        f"another job writes {store.url}: process {owner.pid} on {owner.host}",
        "wait for it, stop it, or choose another output",
    )
