"""Identities across videos, and the train/validation/test split by identity."""

import hashlib
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np

from preprocessing.config import ShardConfig

#: Prefix of an identity that stands for a source, where no recogniser ran.
BY_SOURCE = "source_"
# Vectors compared with all groups at once, to read the groups from memory once.
_BLOCK = 512


def assign_identities(
    rows: Sequence[MutableMapping[str, Any]], descriptors: Mapping[int, np.ndarray], likeness: float
) -> None:
    """Set `identity` of kept rows.

    With descriptors, clips with similar faces share an identity, named after the smallest key among
    them. Without, all clips of one source share one: a person of one video is never on both sides
    of a split, but a person in two videos counts twice and two people in one video count once.

    Args:
        rows: index rows; only kept ones are touched.
        descriptors: unit-length descriptor by position in `rows`; positions may be missing.
        likeness: least cosine of two clips of one person.
    """
    groups: dict[str, list[int]] = {}
    for position, row in enumerate(rows):
        if row["status"] != "kept":
            continue
        if position not in descriptors:
            row["identity"] = f"{BY_SOURCE}{row['key'][:12]}"
    known = sorted(descriptors, key=lambda p: rows[p]["key"])
    for position, label in zip(known, _cluster(known, descriptors, likeness), strict=True):
        groups.setdefault(str(label), []).append(position)
    for members in groups.values():
        name = f"person_{rows[members[0]]['key'].replace('_', '')[:24]}"
        for position in members:
            rows[position]["identity"] = name


def assign_splits(rows: Sequence[MutableMapping[str, Any]], config: ShardConfig) -> None:
    """Set `split` (train, val or test) of kept rows by a hash of their identity.

    All clips of an identity share one split. Where no identity falls into train, all of them do.
    """
    kept = [row for row in rows if row["status"] == "kept"]
    for row in kept:
        row["split"] = split_of(row["identity"], config)
    if kept and all(row["split"] != "train" for row in kept):
        for row in kept:
            row["split"] = "train"


def split_of(identity: str, config: ShardConfig) -> str:
    """Return `train`, `val` or `test` for an identity; it depends on its name only."""
    position = int(hashlib.sha256(identity.encode()).hexdigest()[:12], 16) / 16**12
    if position < config.test:
        return "test"
    return "val" if position < config.test + config.validation else "train"


def _cluster(
    positions: Sequence[int], descriptors: Mapping[int, np.ndarray], likeness: float
) -> np.ndarray:
    """Return a label for each position: similar clips are joined, then groups with similar means.

    A single descriptor is noisy; groups of one identity that start apart are joined by their means.
    """
    labels = np.arange(len(positions))
    if not len(positions):
        return labels
    sums = np.stack([descriptors[position] for position in positions]).astype(np.float64)
    while True:
        joined, sums = _join(sums, likeness)
        labels = joined[labels]
        if len(sums) == len(joined):
            return labels


def _join(sums: np.ndarray, likeness: float) -> tuple[np.ndarray, np.ndarray]:
    """Join vectors in order, each to the most similar group so far or to a new one.

    Groups move to their members' mean after each block of vectors. Returns the group of each
    vector and the groups' sums.
    """
    unit = _unit(sums)
    labels = np.zeros(len(sums), dtype=np.int64)
    # Rows beyond `count` are not yet in use.
    groups, centres = np.zeros_like(sums), np.zeros_like(unit)
    count = 0
    for begin in range(0, len(sums), _BLOCK):
        block = unit[begin : begin + _BLOCK]
        known = count
        to_known = block @ centres[:known].T
        for number, vector in enumerate(block):
            alike = np.concatenate([to_known[number], centres[known:count] @ vector])
            label = int(alike.argmax()) if count else 0
            if not count or alike[label] < likeness:
                label, centres[count] = count, vector
                count += 1
            groups[label] += sums[begin + number]
            labels[begin + number] = label
        touched = np.unique(labels[begin : begin + _BLOCK])
        centres[touched] = _unit(groups[touched])
    return labels, groups[:count]


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-9), dtype=np.float32)
