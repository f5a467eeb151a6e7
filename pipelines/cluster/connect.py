"""Ray, quietly: a private one in this process's care, or a cluster that somebody else runs."""

import importlib
import logging
import os
import secrets
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from preprocessing.errors import UserError, first_line

# Frames stay inside the tasks and what crosses the object store is a few KB, so a private Ray needs
# little; Ray's own default would take 30 % of the machine's memory.
_LOCAL_OBJECT_STORE_BYTES = 512 * 2**20

# How often a private Ray is given another chance on a machine too busy to start it in time.
_START_ATTEMPTS = 3

# How long an address may take to answer before it counts as unreachable, in seconds.
_PROBE_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Cluster:
    """What the cluster behind :func:`connect` has to offer."""

    # "local" for a private Ray, else the address that was joined.
    address: str
    # Totals over all nodes that are alive.
    cpus: float
    gpus: float
    nodes: int
    # Whether leaving :func:`connect` stops or leaves this Ray.
    owned: bool


@contextmanager
def connect(address: str | None = None, num_cpus: int | None = None) -> Iterator[Cluster]:
    """Be connected to Ray for the length of a ``with`` block.

    A connection that is already open is used as it is and left open; one opened here is closed
    again, and only a private Ray started here is ever shut down with it.

    Args:
        address: ``host:port`` of a head node, ``auto`` for the cluster of this machine, or None for
            the cluster in ``RAY_ADDRESS`` (set inside ``ray job submit``) or, without it, a private
            Ray in this process's care.
        num_cpus: logical CPUs of a private Ray; None for the machine's. Ignored for a cluster.

    Raises:
        UserError: the address has the wrong form, does not answer, refuses the credentials, or runs
            another version of Ray or Python; or Ray itself ends under the block.
    """
    address = cluster_address(address)
    _quieten()
    ray = importlib.import_module("ray")
    if ray.is_initialized():
        yield _describe(ray, address or "local", owned=False)
        return
    gone = ray.exceptions.LocalRayletDiedError, ray.exceptions.ActorDiedError
    before = {name: os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE")}
    try:
        if address in (None, "local"):
            _start_local(ray, num_cpus)
            address = "local"
        else:
            _join(ray, str(address))
        yield _describe(ray, str(address), owned=True)
    except gone as error:
        # Killed for want of memory, as a rule. Actors of ours outlive all else.
        raise UserError(
            "Ray ended on this machine while the job was at work",
            "look at its memory; the same command goes on where it stopped",
        ) from error
    finally:
        ray.shutdown()
        _restore_credentials(before)


def cluster_address(address: str | None) -> str | None:
    """Return the cluster that `connect` takes: the one named, else ``RAY_ADDRESS``, else None."""
    return address or os.environ.get("RAY_ADDRESS") or None


def _quieten() -> None:
    """Silence Ray's banners and usage reports; a setting of the person's own wins."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # The "tip" about CUDA_VISIBLE_DEVICES of workers without GPUs; 0 is the behaviour it announces.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray Data and Train draw their own progress bars; the callers of this module draw ours.
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("ray").setLevel(logging.ERROR)


def _start_local(ray: ModuleType, num_cpus: int | None) -> None:
    if not _token_known():
        # Ray guards even a private instance with a token, and would write a new one into the home
        # folder, which may be read-only. A token of our own in the environment reaches all its
        # processes and nothing else.
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    # Ray would have its workers give way to everything else: beside other work on the machine, of
    # which the command itself gets its share, they would get next to nothing.
    os.environ.setdefault("RAY_worker_niceness", "0")
    for attempt in range(1, _START_ATTEMPTS + 1):
        try:
            ray.init(
                address="local",
                num_cpus=num_cpus,
                object_store_memory=_LOCAL_OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                namespace="xnemo",
                runtime_env=_quoted_interpreter(),
            )
            return
        except Exception as error:
            # Ray gives its own processes thirty seconds, whatever the load of the machine, and then
            # raises no class of its own.
            ray.shutdown()
            if attempt < _START_ATTEMPTS and "timed out" in str(error):
                continue
            raise UserError(
                f"Ray does not start on this machine: {first_line(error)}",
                "look at memory, disk and load with 'xnemo doctor'; Ray's words are in /tmp/ray",
            ) from error


def _quoted_interpreter() -> dict[str, str] | None:
    """Return what Ray must be told of this interpreter where its path has a space or the like.

    Ray starts workers that have settings of their own through a shell and does not quote the path:
    they would never come up, and whoever waits for them would wait for ever.
    """
    quoted = shlex.quote(sys.executable)
    return None if quoted == sys.executable else {"py_executable": quoted}


def _join(ray: ModuleType, address: str) -> None:
    refuse_dead_address(address)
    if "RAY_AUTH_MODE" not in os.environ and _token_known() and _asks_for_token(address):
        # Ray turns its token on by itself only for "auto". With a cluster that has none it must
        # stay off: this process would refuse the cluster's own calls, and be taken for dead.
        os.environ["RAY_AUTH_MODE"] = "token"
        importlib.import_module("ray._raylet").Config.initialize("")
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            namespace="xnemo",
        )
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise UserError(
            f"cannot join the Ray cluster at {address}: {first_line(error)}",
            "use the same Ray, Python and token (RAY_AUTH_TOKEN, ~/.ray/auth_token) on both sides, "
            "or leave --address out",
        ) from error


def refuse_dead_address(address: str | None) -> None:
    """Fail at once where nothing answers; Ray itself would retry for half a minute, noisily.

    Args:
        address: as `connect` takes it; only ``host:port`` can be asked.

    Raises:
        UserError: the address has the wrong form, or nothing answers there.
    """
    address = cluster_address(address)
    if address in (None, "auto", "local"):
        return
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536 or "/" in host:
        raise UserError(
            f"--address {address!r} is not an address",
            "write HOST:PORT of the head node, as in 10.0.0.1:6379, or auto",
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_TIMEOUT_S).close()
    except OSError as error:
        raise UserError(
            f"no Ray cluster answers at {address} ({error.strerror or error})",
            "check it with 'ray status' on the head node, or leave --address out",
        ) from error


def _restore_credentials(before: dict[str, str | None]) -> None:
    """Forget the token of a private Ray, so that the next cluster is met with its own."""
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    raylet = importlib.import_module("ray._raylet")
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


def _token_known() -> bool:
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or path.is_file()


def _asks_for_token(address: str) -> bool:
    """Say whether a cluster refuses who brings no token."""
    if address == "auto":
        return True
    raylet = importlib.import_module("ray._raylet")
    errors = importlib.import_module("ray.exceptions")
    raylet.Config.initialize("")
    try:
        with _silenced():
            raylet.GcsClient(address=address).internal_kv_keys(b"", None, timeout=_PROBE_TIMEOUT_S)
    except errors.AuthenticationError:
        return True
    except errors.RayError:
        # Whatever else is wrong with the cluster, joining it says so.
        return False
    return False


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep what Ray's native parts have to say about a question off the terminal."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _describe(ray: ModuleType, address: str, *, owned: bool) -> Cluster:
    total = ray.cluster_resources()
    alive = sum(1 for node in ray.nodes() if node["Alive"])
    return Cluster(
        address=address,
        cpus=float(total.get("CPU", 0.0)),
        gpus=float(total.get("GPU", 0.0)),
        nodes=alive,
        owned=owned,
    )
