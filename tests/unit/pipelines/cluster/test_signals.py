"""The first signal requests a stop, the second one interrupts; foreign handlers do not win."""

import signal
import time

import pytest

from pipelines.cluster import signals
from pipelines.cluster.signals import stop_on_signals


def test_the_first_is_an_event_and_a_later_one_an_interrupt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
        # One `timeout` sends it twice.
        signal.raise_signal(signal.SIGTERM)
        monkeypatch.setattr(signals, "_SAME_SIGNAL_S", 0.0)
        time.sleep(0.01)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_handler_set_inside_does_not_win() -> None:
    """Ray's own ends the process."""
    with stop_on_signals() as stop:
        outer = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda *_: pytest.fail("the other handler was called"))
        with stop_on_signals(stop) as same:
            assert same is stop
            signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
        signal.signal(signal.SIGTERM, outer)
