"""Warp, the library that compiles the renderer's kernels, with a cache that is always writable."""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocessing.errors import UserError
from preprocessing.paths import in_home, user_path

try:
    import warp as wp
except ModuleNotFoundError:
    raise UserError("warp-lang is not installed", "run: pip install 'xnemo[synthetic]'") from None

__all__ = ["CACHE_VARIABLE", "default_device", "kernel_cache", "to_device", "wp"]

CACHE_VARIABLE = "XNEMO_KERNEL_CACHE"


def kernel_cache() -> Path:
    """Folder of compiled kernels: $XNEMO_KERNEL_CACHE, ~/.cache/xnemo/warp or a temporary one."""
    if CACHE_VARIABLE in os.environ:
        return user_path(os.environ[CACHE_VARIABLE])
    for folder in (
        in_home(".cache/xnemo/warp"),
        Path(tempfile.gettempdir()) / f"xnemo-warp-{os.getuid()}",
    ):
        if folder is None:
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    return Path(tempfile.mkdtemp(prefix="xnemo-warp-"))


def _initialise() -> None:
    """Start Warp without its message, written by native code, that there is no CUDA driver."""
    wp.config.log_level = wp.LOG_ERROR
    wp.config.kernel_cache_dir = str(kernel_cache())
    sys.stderr.flush()
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        wp.init()
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


_initialise()


def default_device() -> str:
    """Return "cuda" where Warp finds a CUDA device, else "cpu"."""
    return "cuda" if wp.is_cuda_available() else "cpu"


def to_device(values: NDArray[Any], dtype: Any, device: str) -> Any:
    """Copy an array to the device; the last axis of a vector type is its components."""
    return wp.array(np.ascontiguousarray(values), dtype=dtype, device=device)
