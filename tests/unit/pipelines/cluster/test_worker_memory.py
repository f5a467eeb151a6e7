import os
import subprocess
import sys

import pytest

from pipelines.cluster.worker_memory import kept_memory

# Takes and gives back 32 MiB in a thread, as a training step does, and counts page faults.
PROBE = """
import resource, threading
import numpy as np

def work():
    for turn in range(22):
        if turn == 2:
            before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        blocks = [np.ones(1 << 20) for _ in range(4)]
        del blocks
    print(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


@pytest.fixture(autouse=True)
def no_choice(monkeypatch):
    for name in list(os.environ):
        if name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD"):
            monkeypatch.delenv(name)


def faults(environment: dict[str, str]) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def test_freed_memory_is_used_again_without_asking_the_kernel():
    left_alone = faults({})
    assert left_alone > 1000, "pages are 4 KiB and 640 MiB were filled"
    assert faults(kept_memory()) < left_alone / 50


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "LD_PRELOAD"])
def test_a_choice_of_ones_own_stands(monkeypatch, name):
    assert kept_memory()
    monkeypatch.setenv(name, "")
    assert kept_memory() == {}
