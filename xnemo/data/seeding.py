"""Random numbers as a function of the position in a run, independent of processes."""

import hashlib

import numpy as np

# One name per independent use, so that a new use does not change the numbers of others.
STREAMS = (
    "order",
    "clip",
    "pair",
    "appearance",
    "augment",
    "box",
    "noise",
    "reference_mask",
    "condition",
    "step",
    "mate",
)


def stream_seed(seed: int, position: int, stream: str) -> int:
    """Return a 63-bit seed that is a pure function of (run seed, position, stream).

    `position` is the index of a sample, or for a step its number of samples seen. Hashing makes
    neighbouring positions independent for every kind of generator.
    """
    if stream not in STREAMS:
        raise ValueError(f"unknown random stream {stream!r}; streams are {STREAMS}")
    text = f"{seed}/{stream}/{position}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def sample_rng(seed: int, position: int, stream: str) -> np.random.Generator:
    """Return a numpy generator seeded by (run seed, position, stream)."""
    return np.random.Generator(np.random.PCG64(stream_seed(seed, position, stream)))
