"""Checks of Python, CPUs, memory, disk, torch and GPUs."""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipelines.doctor.check import Check

_GB = 1e9

# Requirements of the demo.
_LEAST_MEMORY, _LEAST_DISK = 6 * _GB, 5 * _GB


def check_machine() -> Iterator[Check]:
    """Check the machine."""
    yield _python()
    yield _cores()
    yield _memory()
    yield from _disk()
    yield from _torch()


def _python() -> Check:
    # Installation refuses older versions.
    return Check("Python", "ok", f"{platform.python_version()} in {sys.prefix}")


def _cores() -> Check:
    cores = len(os.sched_getaffinity(0))
    found = f"{cores} of {os.cpu_count()} usable"
    if cores < 2:
        return Check("cores", "warn", found, "give the container two cores or more")
    return Check("cores", "ok", found)


def memory_limit() -> int:
    """Return the memory limit of this process in bytes: the machine's or the container's."""
    import psutil

    total = int(psutil.virtual_memory().total)
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(file).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, int(text))
    return total


def _memory() -> Check:
    import psutil

    limit = memory_limit()
    free = min(int(psutil.virtual_memory().available), limit)
    found = f"{free / _GB:.1f} GB free of {limit / _GB:.1f} GB"
    if free < _LEAST_MEMORY:
        return Check("memory", "warn", found, "free 6 GB, or preprocess with a lower --concurrency")
    return Check("memory", "ok", found)


def _disk() -> Iterator[Check]:
    places = {"working folder": Path.cwd(), "temporary files": Path(tempfile.gettempdir())}
    for name, place in places.items():
        free = shutil.disk_usage(place).free
        found = f"{free / _GB:.1f} GB free at {place}"
        low = free < _LEAST_DISK
        remedy = "free some space, or use another disk (TMPDIR moves temporary files)"
        yield Check(f"disk, {name}", "warn" if low else "ok", found, remedy if low else "")
    shm = Path("/dev/shm")
    if shm.is_dir() and shutil.disk_usage(shm).total < 0.5 * _GB:
        found = f"{shutil.disk_usage(shm).total / 1e6:.0f} MB of shared memory"
        yield Check("shared memory", "warn", found, "run the container with --shm-size=2g")


def _torch() -> Iterator[Check]:
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    yield Check("torch", "ok", f"{torch.__version__} ({build})")
    if not torch.cuda.is_available():
        has_driver = shutil.which("nvidia-smi") is not None
        if has_driver and not torch.version.cuda:
            remedy = "pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cu130"
            yield Check("GPU", "warn", "CUDA driver installed, but torch without CUDA", remedy)
        else:
            remedy = "not required for the tiny recipe; small, image and temporal require one"
            yield Check("GPU", "warn", "none", remedy)
        return
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        found = f"{about.name}, {free / _GB:.0f} GB free of {total / _GB:.0f} GB"
        yield Check(f"GPU {number}", "ok", found)
