"""A Ray cluster of two nodes on this machine, for tests that are to see a real one.

The nodes belong to a process of their own: a test process may already be connected to another Ray,
whose token and settings the two must not share.
"""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class TwoNodes:
    """A running cluster."""

    # `host:port` of the head, as `--address` takes it.
    address: str
    # Environment of processes that are to join it.
    environment: dict[str, str]
    _keeper: subprocess.Popen[str]

    def kill_second_node(self) -> None:
        """End the second node and all its workers at once, as a power cut would."""
        self._ask("kill")

    def add_node(self) -> None:
        """Start one more node."""
        self._ask("add")

    def _ask(self, word: str) -> None:
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.write(word + "\n")
        self._keeper.stdin.flush()
        assert self._keeper.stdout.readline().strip() == "done"


@contextmanager
def two_nodes(cpus: int = 1, *, guarded: bool = True) -> Iterator[TwoNodes]:
    """Start a head and a second node of `cpus` CPUs each; stop both afterwards.

    Without `guarded` the cluster asks nobody for a token.

    Run what is to use them in a process of its own, with `environment` and `address`.
    """
    own = {"RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_AUTH_MODE": "token"}
    own = own if guarded else {"RAY_AUTH_MODE": "disabled"}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | own
    keeper = subprocess.Popen(
        [sys.executable, __file__, str(cpus)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    try:
        address = keeper.stdout.readline().strip()
        assert address, "the cluster did not start"
        yield TwoNodes(address, environment, keeper)
    finally:
        keeper.stdin.close()
        keeper.wait(timeout=60)


def keep(cpus: int) -> None:
    """Run the cluster until standard input closes; do what its lines say."""
    from ray.cluster_utils import Cluster

    options = {"num_cpus": cpus, "object_store_memory": 2**27}
    cluster = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
    second = cluster.add_node(**options)
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)
    for line in sys.stdin:
        if line.strip() == "kill":
            cluster.remove_node(second, allow_graceful=False)
        else:
            second = cluster.add_node(**options)
        print("done", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    keep(int(sys.argv[1]))
