"""Finds copies of a clip that were re-encoded, resized, shifted in time or mirrored.

What a copy cannot change is how the face changes: the brightness of nine fields of the face, frame
by frame, follows the same curves in every copy and in no other take, not even one of the same
person in the same chair. Candidates are found by the average face, which copies share; the curves
decide.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

# The average face is compared at this size, curves in fields of this grid.
_FACE = 8
_GRID = 3
# Copies are told at most this far apart in time, as a share of the shorter clip.
_SHIFT = 0.5
_LEAST_OVERLAP = 12
# Below so many clips every pair is looked at; above, pairs that fall together by random planes.
_ALL_PAIRS = 2000
_TABLES, _PLANES = 16, 14
# Least cosine of the average faces of two copies.
_LIKE = 0.9


@dataclass(frozen=True)
class Signature:
    """What is remembered of a clip to know its copies."""

    # Average face, zero mean and unit length, float32 [64].
    face: np.ndarray
    # Brightness of 3 × 3 fields in every second frame, uint8 [T, 9].
    curves: np.ndarray

    def to_bytes(self) -> bytes:
        """Return the signature as bytes."""
        return self.face.astype("<f4").tobytes() + self.curves.tobytes()

    @staticmethod
    def from_bytes(data: bytes) -> "Signature":
        """Read a signature back."""
        size = 4 * _FACE * _FACE
        curves = np.frombuffer(data[size:], np.uint8).reshape(-1, _GRID * _GRID)
        return Signature(np.frombuffer(data[:size], "<f4").astype(np.float32), curves)

    def mirrored(self) -> "Signature":
        """Return the signature of the mirrored clip."""
        face = self.face.reshape(_FACE, _FACE)[:, ::-1]
        curves = self.curves.reshape(-1, _GRID, _GRID)[:, :, ::-1]
        return Signature(
            np.ascontiguousarray(face).reshape(-1),
            np.ascontiguousarray(curves).reshape(-1, _GRID * _GRID),
        )


def signature_of(faces_THW: np.ndarray) -> Signature:
    """Return the signature of a clip from its aligned faces, uint8 [T, H, W], 25 a second."""
    every_second = faces_THW[::2]
    fields = np.stack(
        [cv2.resize(f, (_GRID, _GRID), interpolation=cv2.INTER_AREA) for f in every_second]
    )
    mean = every_second.astype(np.float32).mean(axis=0)
    face = cv2.resize(mean, (_FACE, _FACE), interpolation=cv2.INTER_AREA).reshape(-1)
    face = face - face.mean()
    face = face / max(float(np.linalg.norm(face)), 1e-6)
    return Signature(face.astype(np.float32), fields.reshape(len(fields), -1))


def find_duplicates(
    signatures: Mapping[str, Signature],
    rank: Mapping[str, tuple[float, ...]],
    apart: Mapping[str, str],
    least_likeness: float,
) -> dict[str, str]:
    """Return for each copy the key of the clip it is a copy of.

    Of several copies the one of highest rank stays (of equals, the smallest key).

    Args:
        signatures: by key.
        rank: by key; the best copy compares highest.
        apart: by key, the source; clips of one source are never compared.
        least_likeness: least correlation of two copies' curves.
    """
    keys = sorted(signatures)
    copies: dict[str, str] = {}
    pairs = sorted(set(_candidates(keys, signatures)))
    links: dict[str, set[str]] = {}
    for a, b in pairs:
        if apart[a] != apart[b] and likeness(signatures[a], signatures[b]) >= least_likeness:
            links.setdefault(a, set()).add(b)
            links.setdefault(b, set()).add(a)
    # Best first: whoever is not yet a copy stays, and what is like it goes.
    for key in sorted(links, key=lambda k: (tuple(-r for r in rank[k]), k)):
        if key in copies:
            continue
        for other in sorted(links[key]):
            copies.setdefault(other, key)
    return copies


def likeness(a: Signature, b: Signature) -> float:
    """Return the best correlation of two clips' curves over shifts in time, mirrored or not."""
    return max(_correlation(a.curves, b.curves), _correlation(a.curves, b.mirrored().curves))


def _correlation(a_TC: np.ndarray, b_TC: np.ndarray) -> float:
    short = min(len(a_TC), len(b_TC))
    a, b = a_TC.astype(np.float64), b_TC.astype(np.float64)
    reach = int(short * _SHIFT)
    best = -1.0
    for shift in range(-reach, len(a) - short + reach + 1):
        # b begins `shift` samples after a.
        start_a, start_b = max(0, shift), max(0, -shift)
        count = min(len(a) - start_a, len(b) - start_b)
        if count < max(_LEAST_OVERLAP, short - reach):
            continue
        best = max(best, _pearson(a[start_a : start_a + count], b[start_b : start_b + count]))
    return best


def _pearson(a_TC: np.ndarray, b_TC: np.ndarray) -> float:
    """Correlate all fields together, each about its own mean: fields that move more count more."""
    a, b = a_TC - a_TC.mean(axis=0), b_TC - b_TC.mean(axis=0)
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0


def _candidates(
    keys: Sequence[str], signatures: Mapping[str, Signature]
) -> Iterator[tuple[str, str]]:
    """Yield pairs of keys whose average faces, one perhaps mirrored, are alike."""
    if len(keys) < 2:
        return
    straight = np.stack([signatures[key].face for key in keys])
    mirrored = np.stack([signatures[key].mirrored().face for key in keys])
    for i, j in _near_pairs(straight, mirrored):
        if i != j:
            yield (keys[i], keys[j]) if keys[i] < keys[j] else (keys[j], keys[i])


def _near_pairs(straight: np.ndarray, mirrored: np.ndarray) -> Iterator[tuple[int, int]]:
    count = len(straight)
    both = np.concatenate([straight, mirrored])
    if count <= _ALL_PAIRS:
        for i, j in zip(*np.nonzero(straight @ both.T >= _LIKE), strict=True):
            yield int(i), int(j) % count
        return
    rng = np.random.default_rng(0)
    for _ in range(_TABLES):
        planes = rng.standard_normal((both.shape[1], _PLANES))
        codes = ((both @ planes) > 0) @ (1 << np.arange(_PLANES))
        order = np.argsort(codes, kind="stable")
        edges = np.flatnonzero(np.diff(codes[order])) + 1
        for group in np.split(order, edges):
            for i in group:
                if i < count:
                    near = group[both[group] @ straight[i] >= _LIKE]
                    for j in near:
                        yield int(i), int(j) % count
