"""Who is who across videos, and which side of the train/validation/test line each person is on."""

import hashlib
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np

from preprocessing.config import ShardConfig


def assign_identities(
    rows: Sequence[MutableMapping[str, Any]], descriptors: Mapping[int, np.ndarray], likeness: float
) -> None:
    """Set `identity` of kept rows.

    With descriptors, clips whose faces are alike share an identity, named after the smallest key
    among them. Without, all clips of one source share one: that never puts a person of one video on
    both sides of a split, but it knows neither a person in two videos nor two people in one.

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
            row["identity"] = f"source_{row['key'][:12]}"
    known = sorted(descriptors, key=lambda p: rows[p]["key"])
    for position, label in zip(known, _cluster(known, descriptors, likeness), strict=True):
        groups.setdefault(str(label), []).append(position)
    for members in groups.values():
        name = f"person_{rows[members[0]]['key'].replace('_', '')[:24]}"
        for position in members:
            rows[position]["identity"] = name


def assign_splits(rows: Sequence[MutableMapping[str, Any]], config: ShardConfig) -> None:
    """Set `split` (train, val or test) of kept rows by a hash of their identity.

    All of a person's clips share one. Where chance would leave nobody to train on, everybody is
    trained on.
    """
    kept = [row for row in rows if row["status"] == "kept"]
    for row in kept:
        row["split"] = split_of(row["identity"], config)
    if kept and all(row["split"] != "train" for row in kept):
        for row in kept:
            row["split"] = "train"


def split_of(identity: str, config: ShardConfig) -> str:
    """Return `train`, `val` or `test` for an identity; it depends on nothing else."""
    place = int(hashlib.sha256(identity.encode()).hexdigest()[:12], 16) / 16**12
    if place < config.test:
        return "test"
    return "val" if place < config.test + config.validation else "train"


def _cluster(
    positions: Sequence[int], descriptors: Mapping[int, np.ndarray], likeness: float
) -> list[int]:
    """Group descriptors greedily in key order: join the likest centre, else found a new group."""
    centres: list[np.ndarray] = []
    sums: list[np.ndarray] = []
    labels = []
    for position in positions:
        descriptor = descriptors[position].astype(np.float64)
        best, label = likeness, -1
        for number, centre in enumerate(centres):
            value = float(centre @ descriptor)
            if value >= best:
                best, label = value, number
        if label < 0:
            label = len(centres)
            centres.append(descriptor)
            sums.append(descriptor.copy())
        else:
            sums[label] += descriptor
            centres[label] = sums[label] / np.linalg.norm(sums[label])
        labels.append(label)
    return labels
