"""How training workers talk to the program that started them."""

import math
import time
from collections import deque
from typing import Any

#: What a worker posts: a kind and plain data.
Message = tuple[str, dict[str, Any]]

# Messages kept while nobody fetches them; a run writes a few a second.
_CAPACITY = 100_000


class ControlActor:
    """Messages from the workers and one request to them; lives in a Ray actor beside the driver."""

    def __init__(self) -> None:
        """Start empty."""
        self._messages: deque[Message] = deque(maxlen=_CAPACITY)
        self._stop = False
        self._refused = False
        self._asked_at = -math.inf

    def post(self, kind: str, body: dict[str, Any]) -> None:
        """Leave a message."""
        self._messages.append((kind, body))
        self._refused = self._refused or kind == "refused"

    def fetch(self) -> list[Message]:
        """Take all messages."""
        messages = list(self._messages)
        self._messages.clear()
        return messages

    def request_stop(self) -> None:
        """Ask the workers to save a checkpoint and end."""
        self._stop = True

    def stop_requested(self) -> bool:
        """Say, to a worker, whether the workers are asked to end."""
        self._asked_at = time.monotonic()
        return self._stop

    def silence(self) -> float:
        """Return the seconds since a worker last asked; infinite where none ever did."""
        return time.monotonic() - self._asked_at

    def refused(self) -> bool:
        """Say whether a worker found that the run can never work."""
        return self._refused


def start_control_actor() -> Any:
    """Return the handle of a new control_actor on this node, which costs no CPU of the cluster's.

    One that is killed, or was put on another node after all and went with it, is started anew,
    empty. Whoever is calling it then hears that it is unavailable.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    placed = NodeAffinitySchedulingStrategy(node_id=here, soft=True)
    lasting = ray.remote(ControlActor).options(
        num_cpus=0, scheduling_strategy=placed, max_restarts=-1
    )
    return lasting.remote()
