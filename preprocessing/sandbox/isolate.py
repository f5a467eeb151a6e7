"""Runs functions in a child process that can be killed when hostile input hangs or crashes it.

One child serves many calls, so its start is paid once. It is replaced after it was killed and when
it holds too much memory. Results stream out as they are made: those sent before a crash are kept.
The child is a fresh interpreter, not a fork: it shares no threads or locks with the parent.
"""

import atexit
import pickle
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from preprocessing.sandbox.failure import Failure
from preprocessing.sandbox.process import KillableChild

__all__ = ["Failure", "Isolated", "run_isolated", "shared_child", "stream_isolated"]

# A child that holds this much more between two calls than after its first, models included, is
# replaced: memory leaked by a decoder is never returned otherwise.
_GROWTH_LIMIT_MB = 150


class Isolated:
    """A reusable child process, for one thread at a time; a context manager."""

    def __init__(self) -> None:
        self._child: KillableChild | None = None
        # Memory that the current child held after its first call.
        self._first_rest_mb: float | None = None
        # Children started so far.
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

        A generator's items are returned as a list; a failure after some of them returns the Failure
        alone (`stream` keeps them).

        Args:
            function: Function importable by name in a fresh interpreter.
            *args: Its arguments; pickled.
            time_limit_s: Longest time of the call in seconds.
            memory_limit_mb: Most resident memory of the child in MB.
            stall_limit_s: Longest time without an item or a `heartbeat()`.
            **kwargs: Its keyword arguments; pickled.
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

        Time that the consumer spends between items does not count. See `run` for the arguments.
        """
        for kind, value in self._messages(
            function, args, kwargs, time_limit_s, memory_limit_mb, stall_limit_s
        ):
            if kind == "item" or isinstance(value, Failure):
                yield value

    @property
    def peak_memory_mb(self) -> float:
        """Peak resident memory of the current child in MB; 0.0 without one."""
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
                broken: Failure | None = None
                if isinstance(message, Failure):
                    broken = self._timed(message, left_s, time_limit_s, stall_limit_s)
                elif message[0] == "beat":
                    if left_s > 0:
                        continue
                    broken = Failure("timeout", f"not done within {time_limit_s:g} s")
                if broken is not None:
                    yield "failure", replace(broken, reached=child.reached)
                    return
                kind, value = message
                if isinstance(value, Failure):
                    value = replace(value, reached=child.reached)
                finished = kind != "item" and not (
                    isinstance(value, Failure) and value.reason == "memory"
                )
                yield kind, value
                if kind != "item":
                    return
        except GeneratorExit:
            # The consumer may stop at the last item without waiting for the end.
            finished = finished or child.is_at_end()
            raise
        finally:
            # Stopped early, by a failure or by the consumer: the child is still working.
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

    def _ready_child(self) -> KillableChild:
        child = self._child
        if child is None or not child.is_alive or self._has_grown(child):
            self.close()
            child = self._child = KillableChild()
            self._first_rest_mb = None
            self.starts += 1
        return child

    def _has_grown(self, child: KillableChild) -> bool:
        held_mb = child.memory_mb()
        if self._first_rest_mb is None:
            self._first_rest_mb = held_mb
        return held_mb > self._first_rest_mb + _GROWTH_LIMIT_MB


_shared = threading.local()


def shared_child() -> Isolated:
    """Return this thread's reusable child; it ends with the process."""
    if not hasattr(_shared, "isolated"):
        _shared.isolated = Isolated()
        atexit.register(_shared.isolated.close)
    isolated: Isolated = _shared.isolated
    return isolated


def run_isolated(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call `function` in this thread's reusable child; see `Isolated.run`."""
    return shared_child().run(function, *args, **options)


def stream_isolated(
    function: Callable[..., Iterator[Any]], *args: Any, **options: Any
) -> Iterator[Any]:
    """Yield from a generator run in this thread's reusable child; see `Isolated.stream`."""
    return shared_child().stream(function, *args, **options)
