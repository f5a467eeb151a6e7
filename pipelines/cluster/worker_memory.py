"""Settings of the C library's allocator for workers that train on a CPU."""

import os

# A step's activations are gone at its end and needed again a moment later. glibc gives blocks of
# their size back to the kernel each time, and takes new pages that the kernel must clear: with the
# `tiny` recipe at 96 samples a worker 8 % of the time, and ordinary pages cost another 5 %.
_TUNABLES = ("mmap_threshold=1073741824", "trim_threshold=8589934592", "hugetlb=1")
# One arena: Ray trains in a thread, and the arenas of threads give back whatever the thresholds.
_SETTINGS = {
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": ":".join(f"glibc.malloc.{tunable}" for tunable in _TUNABLES),
}
# Who sets one that begins so has an allocator of their own choice.
_CHOICES = ("GLIBC_TUNABLES", "LD_PRELOAD", "MALLOC_")


def kept_memory() -> dict[str, str]:
    """Return the environment in which a process keeps freed memory for itself, in huge pages.

    It must be there when the process starts. Empty where the person has chosen otherwise.
    """
    chosen = any(name.startswith(_CHOICES) for name in os.environ)
    return {} if chosen else dict(_SETTINGS)
