import os
import subprocess
import sys

import pytest

from pipelines.cluster.batch_scheduling import batch_scheduling, leave_batch


@pytest.fixture(autouse=True)
def ordinary_policy():
    """Begin as processes do; SVT-AV1, which other tests use, makes root's thread real-time."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    yield
    os.sched_setscheduler(0, policy, parameters)


ASK = "import os; print(os.sched_getscheduler(0))"


def policy_of_a_child() -> int:
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_what_is_started_inside_keeps_the_policy_and_this_thread_does_not():
    with batch_scheduling():
        assert policy_of_a_child() == os.SCHED_BATCH
    assert policy_of_a_child() == os.SCHED_OTHER


def test_a_thread_that_others_wait_on_leaves_it():
    with batch_scheduling():
        leave_batch()
        assert policy_of_a_child() == os.SCHED_OTHER


def test_a_policy_of_ones_own_stands():
    script = f"""
import os
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
from pipelines.batch_scheduling import batch_scheduling, leave_batch
with batch_scheduling():
    {ASK}
leave_batch()
{ASK}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == [str(os.SCHED_IDLE)] * 2, done.stderr


def test_a_system_that_allows_no_other_policy_is_no_error(monkeypatch):
    def refuse(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with batch_scheduling():
        assert policy_of_a_child() == os.SCHED_OTHER
