"""What a search takes along when Ray Tune copies it, and what it leaves behind."""

import threading

import pytest
from ray import cloudpickle

from pipelines.tune.trials import Listener, _watcher


def test_a_listener_with_a_terminal_stays_here_and_its_copy_is_silent():
    told = []
    lock = threading.RLock()

    def tell(*words):
        with lock:
            told.append(words)

    with pytest.raises(TypeError, match="pickle"):
        cloudpickle.dumps(tell)
    listener = Listener(tell)
    copy = cloudpickle.loads(cloudpickle.dumps(listener))
    copy("trial 1: ended", 1, 2)
    assert told == []
    listener("trial 1: ended", 1, 2)
    assert told == [("trial 1: ended", 1, 2)]
    assert cloudpickle.loads(cloudpickle.dumps(_watcher("loss", 2, listener))) is not None
