"""Ray actor between the workers of a training job and its driver."""

import math
import time
from collections import deque
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

#: Message of a worker: a kind and plain data.
Message = tuple[str, dict[str, Any]]

# Messages kept while nobody fetches them; a run posts a few per second.
_CAPACITY = 100_000


class ControlActor:
    """Queue of the workers' messages, and the driver's request to stop."""

    def __init__(self) -> None:
        """Create an empty queue."""
        self._messages: deque[Message] = deque(maxlen=_CAPACITY)
        self._stop = False
        self._refused = False
        self._polled_at = -math.inf

    @ray.method
    def post(self, kind: str, body: dict[str, Any]) -> None:
        """Append a message."""
        self._messages.append((kind, body))
        self._refused = self._refused or kind == "refused"

    @ray.method
    def fetch(self) -> list[Message]:
        """Return all messages and empty the queue."""
        messages = list(self._messages)
        self._messages.clear()
        return messages

    @ray.method
    def request_stop(self) -> None:
        """Request that the workers save a checkpoint and end."""
        self._stop = True

    @ray.method
    def stop_requested(self) -> bool:
        """Return whether a stop is requested; workers poll this."""
        self._polled_at = time.monotonic()
        return self._stop

    @ray.method
    def seconds_since_poll(self) -> float:
        """Return the seconds since a worker last polled; infinite before the first poll."""
        return time.monotonic() - self._polled_at

    @ray.method
    def refused(self) -> bool:
        """Return whether a worker found input that can never work."""
        return self._refused


def start_control_actor() -> Any:
    """Start a control actor on this node; it reserves no CPU.

    If it is killed, Ray restarts it, empty; calls in the meantime raise ActorUnavailableError.
    """
    here = ray.get_runtime_context().get_node_id()
    strategy = NodeAffinitySchedulingStrategy(node_id=here, soft=True)
    actor = ray.remote(ControlActor).options(
        num_cpus=0, scheduling_strategy=strategy, max_restarts=-1
    )
    return actor.remote()
