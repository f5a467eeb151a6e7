"""Assigns samples to shards by names and sizes alone.

Sources are leaves of a binary trie over the sha1 in their samples' keys. A branch whose samples fit
into one shard is that shard; a larger one is split by the next bit. Adding a source therefore
rewrites the one shard it falls into, and the order in which samples are made does not matter.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

_BITS = 48


@dataclass(frozen=True)
class Placed:
    """A sample to assign to a shard."""

    # Its key, which begins with twelve hexadecimal digits of its source.
    key: str
    # Bytes it takes in a tar.
    size: int
    # Checksum over its members.
    digest: str


@dataclass(frozen=True)
class ShardPlan:
    """One shard: its file name and its samples in order."""

    name: str
    keys: tuple[str, ...]


def plan_shards(samples: Sequence[Placed], limit: int, least: int = 1) -> list[ShardPlan]:
    """Return the shards of a data set, each of at most `limit` bytes where samples allow.

    The limit is halved until there are `least` shards, or one per sample where those are fewer.
    """
    ordered = sorted(samples, key=lambda s: s.key)
    while True:
        shards: list[ShardPlan] = []
        _divide(ordered, "", limit, shards)
        if len(shards) >= min(least, len(ordered)):
            return shards
        limit //= 2


def _divide(samples: list[Placed], prefix: str, limit: int, shards: list[ShardPlan]) -> None:
    if not samples:
        return
    if sum(s.size for s in samples) <= limit:
        shards.append(_named(prefix, 0, samples))
        return
    if len({s.key[:12] for s in samples}) == 1 or len(prefix) >= _BITS:
        # One source larger than a shard: cut its clips in order of time.
        _cut(samples, prefix, limit, shards)
        return
    for bit in "01":
        side = [s for s in samples if _bits(s.key)[len(prefix)] == bit]
        _divide(side, prefix + bit, limit, shards)


def _cut(samples: list[Placed], prefix: str, limit: int, shards: list[ShardPlan]) -> None:
    source = samples[0].key[:12]
    run: list[Placed] = []
    number = 0
    for sample in samples:
        if run and sum(s.size for s in run) + sample.size > limit:
            shards.append(_named(f"{prefix[:16]}-{source}", number, run))
            run, number = [], number + 1
        run.append(sample)
    shards.append(_named(f"{prefix[:16]}-{source}", number, run))


def _named(prefix: str, number: int, samples: list[Placed]) -> ShardPlan:
    """Return a shard named after its branch and content, so that versions never share a name."""
    text = "\n".join(f"{s.key} {s.digest}" for s in samples)
    content = hashlib.sha256(text.encode()).hexdigest()[:12]
    branch = f"{prefix}-" if prefix else ""
    return ShardPlan(f"shard-{branch}{number:04d}-{content}.tar", tuple(s.key for s in samples))


def _bits(key: str) -> str:
    return f"{int(key[:12], 16):0{_BITS}b}"
