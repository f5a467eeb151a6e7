"""Connection to Ray: a private instance on this machine, or an existing cluster."""

import importlib
import logging
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

from pipelines.cluster.credentials import (
    match_auth_mode,
    restored_credentials,
    set_private_token,
)
from preprocessing.errors import UserError, first_line

# Frames stay inside tasks, and a few KB cross the object store. Ray's default is 30 % of memory.
_LOCAL_OBJECT_STORE_BYTES = 512 * 2**20

# Starts of a private Ray: a busy machine may not start it in time.
_START_ATTEMPTS = 3

# The path of a socket has at most 107 bytes; this much of it Ray needs itself.
_LONGEST_TEMP_DIR = 107 - len(
    "/ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store.9"
)

# Seconds that an address may take to answer.
_PROBE_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Cluster:
    """Resources of the connected cluster."""

    # "local" for a private Ray, else the address that was joined.
    address: str
    # Totals over all live nodes.
    cpus: float
    gpus: float
    nodes: int
    # Whether leaving :func:`connect` closes the connection.
    owned: bool
    # Whether an autoscaler may add nodes.
    grows: bool = False


@contextmanager
def connect(address: str | None = None, num_cpus: int | None = None) -> Iterator[Cluster]:
    """Connect to Ray for the length of a ``with`` block.

    A connection that is already open is reused and stays open. A private Ray started here is shut
    down at the end; a cluster that was joined keeps running.

    Args:
        address: ``host:port`` of a head node, ``auto`` for the cluster on this machine, or None for
            the cluster in ``RAY_ADDRESS`` (set by ``ray job submit``) or else a private Ray.
        num_cpus: logical CPUs of a private Ray; None for all of the machine.

    Raises:
        UserError: the address is malformed, does not answer, rejects the credentials or runs other
            versions of Ray or Python; or Ray itself ends within the block.
    """
    address = cluster_address(address)
    _set_quiet_defaults()
    ray = importlib.import_module("ray")
    if ray.is_initialized():
        yield _describe(ray, address or "local", owned=False)
        return
    with restored_credentials():
        try:
            if address in (None, "local"):
                _start_local(ray, num_cpus)
                address = "local"
            else:
                _join(ray, str(address))
            yield _describe(ray, str(address), owned=True)
        except (ray.exceptions.LocalRayletDiedError, ray.exceptions.ActorDiedError) as error:
            # Usually the kernel killed it for lack of memory.
            raise UserError(
                "Ray ended on this machine during the job",
                "check its memory; the same command resumes the job",
            ) from error
        finally:
            ray.shutdown()


def cluster_address(address: str | None) -> str | None:
    """Return the cluster that `connect` joins: ``address``, else ``RAY_ADDRESS``, else None."""
    return address or os.environ.get("RAY_ADDRESS") or None


def refuse_dead_address(address: str | None) -> None:
    """Check that an address answers; Ray itself retries for half a minute.

    Args:
        address: as for `connect`; only ``host:port`` can be checked.

    Raises:
        UserError: the address is malformed or does not answer.
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


def _set_quiet_defaults() -> None:
    """Disable Ray's banners, progress bars and usage reports unless the user has set them."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Avoids a tip about CUDA_VISIBLE_DEVICES of workers without GPUs; 0 is the future default.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("ray").setLevel(logging.ERROR)


def silence_ray_data() -> None:
    """Keep Ray Data's log lines and progress bars off the terminal."""
    import ray.data

    for name in ("ray.data", "ray.data._internal"):
        # Errors are raised as well, and reported once by the caller.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def _start_local(ray: ModuleType, num_cpus: int | None) -> None:
    set_private_token()
    _set_short_temp_dir()
    # Ray runs its workers at the lowest priority, which starves them on a machine with other work.
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
            # Ray has a fixed limit of thirty seconds and no exception class of its own for it.
            ray.shutdown()
            if attempt < _START_ATTEMPTS and "timed out" in str(error):
                continue
            raise UserError(
                f"Ray does not start on this machine: {first_line(error)}",
                "check memory, disk and load with 'xnemo doctor'; Ray's logs are in /tmp/ray",
            ) from error


def _set_short_temp_dir() -> None:
    """Let Ray use /tmp where TMPDIR is too long for the paths of its sockets, as on batch systems.

    Raises:
        UserError: RAY_TMPDIR is too long itself, or /tmp cannot be written.
    """
    chosen = os.environ.get("RAY_TMPDIR")
    if len(os.fsencode(chosen or os.environ.get("TMPDIR", ""))) <= _LONGEST_TEMP_DIR:
        return
    if chosen or not os.access("/tmp", os.W_OK | os.X_OK):
        raise UserError(
            f"{'RAY_TMPDIR' if chosen else 'TMPDIR'} is too long for Ray's sockets",
            f"set RAY_TMPDIR to a folder of at most {_LONGEST_TEMP_DIR} bytes",
        )
    os.environ["RAY_TMPDIR"] = "/tmp"


def _quoted_interpreter() -> dict[str, str] | None:
    """Return a runtime environment if the interpreter's path needs quoting, as with a space.

    Ray starts workers through a shell without quoting the path, and they would never start.
    """
    quoted = shlex.quote(sys.executable)
    return None if quoted == sys.executable else {"py_executable": quoted}


def _join(ray: ModuleType, address: str) -> None:
    refuse_dead_address(address)
    match_auth_mode(address)
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


def _describe(ray: ModuleType, address: str, *, owned: bool) -> Cluster:
    total = ray.cluster_resources()
    return Cluster(
        address=address,
        cpus=float(total.get("CPU", 0.0)),
        gpus=float(total.get("GPU", 0.0)),
        nodes=sum(1 for node in ray.nodes() if node["Alive"]),
        owned=owned,
        grows=address != "local" and _has_autoscaler(),
    )


def _has_autoscaler() -> bool:
    """Return whether the connected cluster has the autoscaler of KubeRay and `ray up`."""
    utils = importlib.import_module("ray.autoscaler.v2.utils")
    return bool(utils.is_autoscaler_v2(fetch_from_server=True))
