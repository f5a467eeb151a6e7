import os
import subprocess
import sys

import pytest
import torch

from preprocessing.errors import UserError
from xnemo.model.compiling import require_compiling

# What torch 2.13 raises where it lies in "/a b", shortened.
LINKER = """CppCompileError: C++ compile error

Command:
g++ main.cpp -I/a b/torch/include -o main.so -ltorch -L/a b/torch/lib

Output:
In file included from /a b/torch/include/vec512.h:15,
vec512.h:20: warning: ignoring attributes on template argument
/usr/bin/ld: cannot find -ltorch: No such file or directory
/usr/bin/ld: cannot find b/torch/lib: No such file or directory
collect2: error: ld returned 1 exit status
"""


@pytest.fixture(autouse=True)
def asked_anew():
    require_compiling.cache_clear()
    yield
    require_compiling.cache_clear()


def test_a_missing_compiler_is_reported_in_one_line(tmp_path):
    code = "from xnemo.model.compiling import require_compiling as ask; ask('cpu')"
    caches = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **caches, "CXX": "/nowhere/c++"},
        capture_output=True,
        text=True,
    )
    last = done.stderr.splitlines()[-1]
    assert "UserError: torch.compile does not work on this machine's cpu" in last
    assert "No working C++ compiler found" in last
    assert "/nowhere/c++" in last
    assert "disable compilation" in last


def test_a_path_with_a_space_is_reported(monkeypatch):
    def compile_nothing(function):
        raise RuntimeError(LINKER)

    monkeypatch.setattr(torch, "compile", compile_nothing)
    monkeypatch.setattr(torch, "__file__", "/a b/torch/__init__.py")
    with pytest.raises(UserError, match="cpu: /usr/bin/ld: cannot find -ltorch") as raised:
        require_compiling("cpu")
    assert "/a b/torch/__init__.py" in raised.value.remedy


def test_the_check_runs_once_per_process(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda function: asked.append(function) or function)
    require_compiling("cpu")
    require_compiling("cpu")
    assert len(asked) == 1
