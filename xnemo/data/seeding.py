"""Random numbers that depend on a position, never on a process."""

import hashlib

import numpy as np

# One name per independent use, so that adding a use never shifts the numbers of another.
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
)


def stream_seed(seed: int, position: int, stream: str) -> int:
    """Return a 63-bit seed that is a pure function of (run seed, position, stream).

    `position` is a sample index for what belongs to a sample and the number of samples seen for
    what belongs to a step. Hashing keeps neighbouring positions unrelated for every generator it
    feeds.
    """
    if stream not in STREAMS:
        raise ValueError(f"unknown random stream {stream!r}; streams are {STREAMS}")
    text = f"{seed}/{stream}/{position}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def sample_rng(seed: int, position: int, stream: str) -> np.random.Generator:
    """Return a fresh numpy generator for one (run seed, position, stream)."""
    return np.random.Generator(np.random.PCG64(stream_seed(seed, position, stream)))
