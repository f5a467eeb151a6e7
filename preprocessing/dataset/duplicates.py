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
# Copies may be shifted in time by half the shorter clip, but overlap by this many samples (3.2 s)
# where they are as long: over less, one smooth nod is like another. Shifts of a few samples are
# always tried, for a copy may have lost its first frames.
_SHIFT, _OVERLAP, _FEW = 0.5, 40, 3
# Overlaps of this many samples (4 s) and more are judged as they are; what a shorter one lacks to
# full likeness counts so much the more, for over a second or two any smooth sway is like another.
_ENOUGH = 50
# A path has to be this long (standard deviation, in face sides) to tell one take from another.
_FAR, _GROWN = 0.03, 0.02
# Farthest that the faces of two copies lie apart (root mean square, in face sides, each about its
# own mean): on copies that were dimmed, shrunk, mirrored or pressed to a fraction of their bytes,
# detections differ by up to 0.03; other takes whose slow sway looks alike for two seconds by 0.034
# and more.
_APART = 0.032
# Steps of a stored path: face sides, and natural logarithms of the face's side.
_PLACE_STEP, _SIZE_STEP = 1 / 64, 1 / 256
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
    # Where the face is (x, y) and how large, about their means, in steps; uint8 [T, 3] about 128.
    path: np.ndarray

    def to_bytes(self) -> bytes:
        """Return the signature as bytes."""
        both = np.concatenate([self.curves, self.path], axis=1)
        return self.face.astype("<f4").tobytes() + both.tobytes()

    @staticmethod
    def from_bytes(data: bytes) -> "Signature":
        """Read a signature back."""
        size = 4 * _FACE * _FACE
        both = np.frombuffer(data[size:], np.uint8).reshape(-1, _GRID * _GRID + 3)
        face = np.frombuffer(data[:size], "<f4").astype(np.float32)
        return Signature(face, both[:, : _GRID * _GRID], both[:, _GRID * _GRID :])

    def mirrored(self) -> "Signature":
        """Return the signature of the mirrored clip."""
        face = self.face.reshape(_FACE, _FACE)[:, ::-1]
        curves = self.curves.reshape(-1, _GRID, _GRID)[:, :, ::-1]
        path = np.concatenate([255 - self.path[:, :1], self.path[:, 1:]], axis=1)
        return Signature(
            np.ascontiguousarray(face).reshape(-1),
            np.ascontiguousarray(curves).reshape(-1, _GRID * _GRID),
            path,
        )


def signature_of(faces_THW: np.ndarray, boxes_T4: np.ndarray) -> Signature:
    """Return the signature of a clip, 25 frames a second.

    Args:
        faces_THW: aligned faces, uint8 [T, H, W].
        boxes_T4: their boxes in any pixels that stay the same throughout.
    """
    every_second = faces_THW[::2]
    fields = np.stack(
        [cv2.resize(f, (_GRID, _GRID), interpolation=cv2.INTER_AREA) for f in every_second]
    )
    mean = every_second.astype(np.float32).mean(axis=0)
    face = cv2.resize(mean, (_FACE, _FACE), interpolation=cv2.INTER_AREA).reshape(-1)
    face = face - face.mean()
    face = face / max(float(np.linalg.norm(face)), 1e-6)
    return Signature(face.astype(np.float32), fields.reshape(len(fields), -1), _path(boxes_T4[::2]))


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
    # One long video has many clips of one face: most pairs end here.
    pairs = {pair for pair in _candidates(keys, signatures) if apart[pair[0]] != apart[pair[1]]}
    links: dict[str, set[str]] = {}
    for a, b in sorted(pairs):
        if _is_copy(signatures[a], signatures[b], least_likeness):
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
    """Return how alike two clips' curves are at the best shift in time, mirrored or not; at most 1.

    It is their correlation, less where the two overlap for a short time only.
    """
    return max(_agreement(a, b), _agreement(a, b.mirrored()))


def _is_copy(a: Signature, b: Signature, least: float) -> bool:
    """Tell whether the likeness is `least` or more, for much less than it costs to know it."""
    return _agreement(a, b, least) >= least or _agreement(a, b.mirrored(), least) >= least


def _agreement(a: Signature, b: Signature, least: float = -1.0) -> float:
    """Return how well curves and paths agree at the shift at which they agree best.

    What is below `least` may come out lower than it is: paths are only looked at where curves are
    like enough. One person in one chair gives many clips whose average faces are alike, and a pair
    has to be cheap.
    """
    long_a, long_b = len(a.curves), len(b.curves)
    short = min(long_a, long_b)
    reach = min(int(short * _SHIFT), max(_FEW, short - _OVERLAP))
    # b begins so many samples after a.
    shifts = np.arange(-(long_b - short) - reach, long_a - short + reach + 1)
    starts_a, starts_b = np.maximum(shifts, 0), np.maximum(-shifts, 0)
    counts = np.minimum(long_a - starts_a, long_b - starts_b)
    enough = counts >= max(short - reach, 1)
    starts_a, starts_b, counts = starts_a[enough], starts_b[enough], counts[enough]
    likes = _pearson_by_shift(a.curves, b.curves, starts_a, starts_b, counts)
    values = 1 - (1 - likes) * np.maximum(1.0, _ENOUGH / counts)
    best = -1.0
    for n in np.argsort(-values, kind="stable"):
        value = float(values[n])
        if value <= best or value < least:
            # None of those to come can be better, or would do.
            break
        in_a = slice(starts_a[n], starts_a[n] + counts[n])
        in_b = slice(starts_b[n], starts_b[n] + counts[n])
        best = max(best, min(value, _same_path(a.path[in_a], b.path[in_b])))
    return best


def _pearson_by_shift(
    a_TC: np.ndarray,
    b_TC: np.ndarray,
    starts_a: np.ndarray,
    starts_b: np.ndarray,
    counts: np.ndarray,
) -> np.ndarray:
    """Return `_pearson` of many overlaps of two sequences of bytes, in whole numbers throughout."""
    a, b = a_TC.astype(np.int64), b_TC.astype(np.int64)
    shifts = starts_a - starts_b
    curves = zip(a_TC.T.astype(np.float64), b_TC.T.astype(np.float64), strict=True)
    products = np.sum([np.correlate(a_T, b_T, "full") for a_T, b_T in curves], axis=0)
    # Sums of products of bytes are exact in a float.
    crossed = np.rint(products[shifts + len(b) - 1]).astype(np.int64)
    sums_a, sums_b = (_window_sums(x, at, counts) for x, at in ((a, starts_a), (b, starts_b)))
    squares_a, squares_b = (
        _window_sums(x * x, at, counts).sum(axis=1) for x, at in ((a, starts_a), (b, starts_b))
    )
    shared = counts * crossed - (sums_a * sums_b).sum(axis=1)
    spread_a = counts * squares_a - (sums_a * sums_a).sum(axis=1)
    spread_b = counts * squares_b - (sums_b * sums_b).sum(axis=1)
    norm = np.sqrt(spread_a.astype(np.float64)) * np.sqrt(spread_b.astype(np.float64))
    likes: np.ndarray = np.divide(shared, norm, out=np.zeros(len(norm)), where=norm > 0)
    return likes


def _window_sums(x_TC: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    total = np.concatenate([np.zeros_like(x_TC[:1]), x_TC.cumsum(axis=0)])
    sums: np.ndarray = total[starts + counts] - total[starts]
    return sums


def _same_path(a_T3: np.ndarray, b_T3: np.ndarray) -> float:
    """Return how well two faces move alike: 1 where one of them does not move, -1 where apart."""
    places = a_T3[:, :2].astype(np.float64) - b_T3[:, :2]
    if float(np.sqrt(places.var(axis=0).sum())) * _PLACE_STEP > _APART:
        return -1.0
    agree = 1.0
    for columns, step, least in (
        (slice(0, 2), _PLACE_STEP, _FAR),
        (slice(2, 3), _SIZE_STEP, _GROWN),
    ):
        a, b = a_T3[:, columns], b_T3[:, columns]
        moves = [
            float(np.sqrt(part.astype(np.float64).var(axis=0).sum())) * step for part in (a, b)
        ]
        if min(moves) > least:
            agree = min(agree, _pearson(a, b))
    return agree


def _path(boxes_T4: np.ndarray) -> np.ndarray:
    boxes = np.asarray(boxes_T4, dtype=np.float64)
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    place = (boxes[:, :2] + boxes[:, 2:]) / 2 / np.median(sides)
    place = (place - place.mean(axis=0)) / _PLACE_STEP
    size = np.log(sides) - np.log(sides).mean()
    path = np.concatenate([place, size[:, None] / _SIZE_STEP], axis=1)
    return np.clip(np.round(path + 127.5), 0, 255).astype(np.uint8)


def _pearson(a_TC: np.ndarray, b_TC: np.ndarray) -> float:
    """Correlate all fields together, each about its own mean: fields that move more count more."""
    a, b = (part - part.astype(np.float64).mean(axis=0) for part in (a_TC, b_TC))
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
