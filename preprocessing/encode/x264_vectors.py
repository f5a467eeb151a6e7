"""What keeps x264's bytes the same on every machine and in every process."""

from functools import cache
from pathlib import Path

_CPU = Path("/proc/cpuinfo")


@cache
def x264_vectors() -> str:
    """Return the x264 parameter that says which vector code it may use.

    Its AVX-512 code for the macroblock tree reads past the end of rows that are no multiple of 128
    pixels wide: bytes then depend on what the process had in that memory before, and differ from
    those of CPUs without it. AVX2 and SSE4.2 agree with each other at every width, and with
    AVX-512 at multiples of 128 (seen with the x264 of PyAV 18).
    """
    try:
        has_avx512 = "avx512" in _CPU.read_text()
    except OSError:
        has_avx512 = False
    return "asm=avx2" if has_avx512 else "asm=auto"
