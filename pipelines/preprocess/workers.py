"""Ray for a preprocessing job: started when there is work for it and not before."""

from contextlib import ExitStack
from typing import Any

from pipelines.cluster.connect import connect
from pipelines.preprocess.stream import quiet_ray


class Workers:
    """The connection to Ray of one job; use it in a `with`."""

    def __init__(self, address: str | None, wanted: int | None) -> None:
        """Remember where to connect to and how many processes are to work at once.

        Args:
            address: Ray cluster; None for this machine.
            wanted: processes; None for one a CPU.
        """
        self._address = address
        self._stack = ExitStack()
        self._count: int | None = None
        self.wanted = wanted

    @property
    def used(self) -> int:
        """How many processes the job has used so far: 0 without Ray."""
        return self._count or 0

    def count(self) -> int:
        """Be connected to Ray and return how many processes are to work at once."""
        if self._count is None:
            quiet_ray()
            cluster = self._stack.enter_context(connect(self._address, self.wanted))
            self._count = self.wanted or max(1, int(cluster.cpus))
        return self._count

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._stack.__exit__(*exc_info)
