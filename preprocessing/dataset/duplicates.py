"""Finds copies of a clip that were re-encoded, resized, shifted in time or mirrored.

The brightness of nine fields of the face, frame by frame, follows the same curves in every copy and
in no other take, not even one of the same person in the same chair. Candidates are found by the
average face, which copies share; the curves decide.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from preprocessing.chunk.signature import POSITION_STEP, SIZE_STEP, Signature

# Copies may be shifted in time by half the shorter clip, but overlap by this many samples (3.2 s)
# where they are that long: over less, smooth movements look alike. Shifts of a few samples are
# always tried, as a copy may have lost its first frames.
_SHIFT, _OVERLAP, _FEW = 0.5, 40, 3
# The likeness of overlaps of this many samples (4 s) and more counts as it is; for shorter ones the
# difference to full likeness is scaled up, as any smooth movements look alike for a second or two.
_ENOUGH = 50
# A path has to be this long (standard deviation, in face sides) to tell one take from another.
_FAR, _GROWN = 0.03, 0.02
# Largest distance of the faces of two copies (root mean square, in face sides, each about its own
# mean): in dimmed, shrunk, mirrored or strongly compressed copies, detections differ by up to 0.03;
# in other takes that look alike for two seconds by 0.034 and more.
_APART = 0.032
# Up to this many clips every pair is compared; above, pairs that random planes put together.
_ALL_PAIRS = 2000
_TABLES, _PLANES = 16, 14
# Least cosine of the average faces of two copies.
_LIKE = 0.9


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
    # Best first: a clip that is not yet a copy stays, and clips like it are its copies.
    for key in sorted(links, key=lambda k: (tuple(-r for r in rank[k]), k)):
        if key in copies:
            continue
        for other in sorted(links[key]):
            copies.setdefault(other, key)
    return copies


def likeness(a: Signature, b: Signature) -> float:
    """Return how alike two clips' curves are at the best shift in time, mirrored or not; at most 1.

    This is their correlation, reduced where the two overlap for a short time only.
    """
    return max(_agreement(a, b), _agreement(a, b.mirrored()))


def _is_copy(a: Signature, b: Signature, least: float) -> bool:
    """Return whether the likeness is at least `least`, for much less than computing it."""
    return _agreement(a, b, least) >= least or _agreement(a, b.mirrored(), least) >= least


def _agreement(a: Signature, b: Signature, least: float = -1.0) -> float:
    """Return how well curves and paths agree at the shift at which they agree best.

    A value below `least` may be too low: paths are compared only where curves are alike enough. One
    person in one chair gives many clips whose average faces are alike, and a pair has to be cheap.
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
            # The remaining ones are not better, or not enough.
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
    offsets = a_T3[:, :2].astype(np.float64) - b_T3[:, :2]
    if float(np.sqrt(offsets.var(axis=0).sum())) * POSITION_STEP > _APART:
        return -1.0
    agree = 1.0
    for columns, step, least in (
        (slice(0, 2), POSITION_STEP, _FAR),
        (slice(2, 3), SIZE_STEP, _GROWN),
    ):
        a, b = a_T3[:, columns], b_T3[:, columns]
        moves = [float(np.sqrt(one.astype(np.float64).var(axis=0).sum())) * step for one in (a, b)]
        if min(moves) > least:
            agree = min(agree, _pearson(a, b))
    return agree


def _pearson(a_TC: np.ndarray, b_TC: np.ndarray) -> float:
    """Correlate all fields together, each about its own mean: fields that move more count more."""
    a, b = (one - one.astype(np.float64).mean(axis=0) for one in (a_TC, b_TC))
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
