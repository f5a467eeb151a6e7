import base64

import cv2
import numpy as np
import pytest

from preprocessing.chunk.signature import Signature, signature_of
from preprocessing.config import ShardConfig
from preprocessing.dataset import duplicates
from preprocessing.dataset.duplicates import find_duplicates, likeness
from preprocessing.dataset.identity import assign_identities, assign_splits, split_of


def rows(*keys, status="kept"):
    return [{"key": key, "status": status} for key in keys]


def near(direction, seed, spread=0.5):
    rng = np.random.default_rng(seed)
    vector = direction + rng.normal(0, spread / np.sqrt(len(direction)), len(direction))
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def test_people_are_found_again_across_videos():
    rng = np.random.default_rng(0)
    people = [near(np.zeros(128), seed, 1.0) for seed in range(20)]
    keys = [f"{n:012x}_0000_00_000000000" for n in range(100)]
    order = rng.permutation(100)
    table = rows(*keys)
    descriptors = {int(k): near(people[k % 20], 1000 + int(k)) for k in order}
    assign_identities(table, descriptors, 0.45)
    labels = [row["identity"] for row in table]
    assert len(set(labels)) == 20
    assert all(labels[k] == labels[k % 20] for k in range(100))


def test_a_person_whose_first_clips_are_unlike_each_other_is_one_person():
    def at(degrees, off):
        """Return a view at an angle of one person's plane, and something of its own besides."""
        angle = np.radians(degrees)
        vector = np.zeros(16)
        vector[:2] = np.cos(angle), np.sin(angle)
        vector[2 + off] = 0.3
        return (vector / np.linalg.norm(vector)).astype(np.float32)

    turned = [at(*view) for view in ((0, 0), (70, 1), (10, 2), (20, 3), (50, 4), (40, 5))]
    stranger = np.eye(16, dtype=np.float32)[15]
    table = rows(*(f"{n:012x}_0000_00_000000000" for n in range(7)))
    assert float(turned[0] @ turned[1]) < 0.45
    assign_identities(table, dict(enumerate([*turned, stranger])), 0.45)
    labels = [row["identity"] for row in table]
    assert len(set(labels[:6])) == 1
    assert labels[6] != labels[0]


def test_without_a_recogniser_a_source_is_a_person():
    table = rows("aaaaaaaaaaaa_0000_00_000000000", "aaaaaaaaaaaa_0001_01_000000000",
                 "bbbbbbbbbbbb_0000_00_000000000")  # fmt: skip
    assign_identities(table, {}, 0.45)
    a, b, c = (row["identity"] for row in table)
    assert a == b == "source_aaaaaaaaaaaa"
    assert c == "source_bbbbbbbbbbbb"


def test_splits_follow_identity_and_stay():
    config = ShardConfig(validation=0.2, test=0.1)
    names = [f"p{n}" for n in range(2000)]
    shares = {s: sum(split_of(n, config) == s for n in names) / 2000 for s in ("val", "test")}
    assert shares["val"] == pytest.approx(0.2, abs=0.03)
    assert shares["test"] == pytest.approx(0.1, abs=0.03)
    # More validation moves nobody from test to train or back.
    wider = ShardConfig(validation=0.4, test=0.1)
    assert all(split_of(n, wider) == "test" for n in names if split_of(n, config) == "test")
    table = [{"key": "k", "status": "kept", "identity": "p"}, {"key": "d", "status": "dropped"}]
    assign_splits(table, ShardConfig(validation=0.0, test=0.5))
    assert table[0]["split"] in {"test", "train"}
    assert "split" not in table[1]


def test_nobody_to_train_on_is_avoided():
    config = ShardConfig(validation=0.5, test=0.5)
    table = [{"key": "k", "status": "kept", "identity": f"p{n}"} for n in range(3)]
    assign_splits(table, config)
    assert {row["split"] for row in table} == {"train"}


def take(seed, frames=120, person=0):
    """A face whose nine fields move their own way; one person, many takes."""
    look = np.random.default_rng(person).integers(60, 200, (6, 6)).astype(np.float32)
    base = cv2.resize(look, (48, 48), interpolation=cv2.INTER_CUBIC)
    rng = np.random.default_rng(1000 + seed)
    walk = cv2.GaussianBlur(rng.normal(0, 1, (frames, 9)).astype(np.float32), (1, 9), 0)
    fields = walk.reshape(frames, 3, 3) * 12
    pictures = [base + cv2.resize(f, (48, 48), interpolation=cv2.INTER_LINEAR) for f in fields]
    return np.clip(np.stack(pictures), 0, 255).astype(np.uint8)


def walk(seed, frames=120):
    """Boxes of a face that sways its own way."""
    rng = np.random.default_rng(2000 + seed)
    path = cv2.GaussianBlur(rng.normal(0, 25, (frames, 3)).astype(np.float32), (1, 15), 0)
    side = 100 + path[:, 2] / 2
    x, y = 200 + path[:, 0], 150 + path[:, 1]
    return np.stack([x - side / 2, y - side / 2, x + side / 2, y + side / 2], axis=1)


def sign(seed, person=0, kind=""):
    """The signature of a take, or of a copy of it."""
    faces, boxes = take(seed, person=person), walk(seed)
    if not kind:
        return signature_of(faces, boxes)
    if "mirror" in kind:
        left, right = 400 - boxes[:, 2], 400 - boxes[:, 0]
        boxes = np.stack([left, boxes[:, 1], right, boxes[:, 3]], axis=1)
    if "late" in kind:
        boxes = boxes[20:]
    return signature_of(copy(faces, kind, seed), boxes * 0.5 + 7)


def copy(faces, kind, seed=0):
    rng = np.random.default_rng(seed)
    if "mirror" in kind:
        faces = faces[:, :, ::-1]
    if "late" in kind:
        faces = faces[20:]
    coded = faces * 0.95 + 6 + rng.normal(0, 3, faces.shape)
    return np.clip(coded, 0, 255).astype(np.uint8)


def test_signature_round_trip():
    signature = sign(0)
    back = Signature.from_bytes(base64.b64decode(base64.b64encode(signature.to_bytes())))
    np.testing.assert_array_equal(back.curves, signature.curves)
    np.testing.assert_array_equal(back.path, signature.path)
    np.testing.assert_array_equal(back.mirrored().mirrored().face, signature.face)


@pytest.mark.parametrize("kind", ["coded", "mirror", "late", "late mirror"])
def test_copies_are_like_and_other_takes_of_the_same_person_are_not(kind):
    original = sign(0)
    threshold = ShardConfig().duplicate_likeness
    assert likeness(original, sign(0, kind=kind)) > threshold
    others = [likeness(original, sign(seed)) for seed in range(1, 12)]
    assert max(others) < threshold - 0.1


def test_smooth_nods_of_one_picture_are_different_takes():
    """A photograph that sways has the same curves as another, but not the same path."""
    base = take(0, frames=60)[0].astype(np.float32)
    signatures = {}
    for n in range(8):
        phase = np.random.default_rng(n).uniform(0, 6.28, 4)
        sway = np.sin(np.arange(60)[:, None] / 25 * 1.6 + phase)
        faces = np.clip(base[None] + 10 * sway[:, 3, None, None], 0, 255).astype(np.uint8)
        middle, side = 200 + 20 * sway[:, :2], 100 * (1 + 0.04 * sway[:, 2:3])
        boxes = np.concatenate([middle - side / 2, middle + side / 2], axis=1)
        signatures[f"k{n}"] = signature_of(faces, boxes)
    rank = dict.fromkeys(signatures, (1.0,))
    found = find_duplicates(signatures, rank, {k: k for k in signatures}, 0.85)
    assert not found


def test_sways_that_look_alike_for_two_seconds_are_different_takes():
    """One waves twice as far as the other, in the same rhythm and the same light."""
    moment = np.arange(30) / 12.5
    curves = np.tile((128 + 60 * np.sin(2 * moment))[:, None], (1, 9)).astype(np.uint8)
    face = np.eye(1, 64, dtype=np.float32)[0]

    def waving(amplitude, late, noise=0.0):
        rng = np.random.default_rng(1)
        place = amplitude * np.sin(2 * moment + late) + noise * rng.normal(size=30)
        path = np.full((30, 3), 128, np.uint8)
        path[:, 0] = np.round(128 + 64 * place)
        return Signature(face, curves, path)

    one = waving(0.16, 0.0)
    assert likeness(one, waving(0.16, 0.0, noise=0.02)) > 0.9
    assert likeness(one, waving(0.08, 0.1)) < 0.5


@pytest.mark.parametrize(
    ("samples", "is_copy"), [(100, True), (60, True), (25, False), (14, False)]
)
def test_the_shorter_two_clips_overlap_the_more_alike_copies_have_to_be(samples, is_copy):
    """Of curves that agree to nine tenths for a second, the next clip has some as well."""
    rng = np.random.default_rng(4)
    face, still = np.eye(1, 64, dtype=np.float32)[0], np.full((samples, 3), 128, np.uint8)
    curve = 30 * rng.normal(size=(samples, 9))
    other = curve + 13 * rng.normal(size=(samples, 9))
    one, two, same = (
        Signature(face, np.clip(128 + c, 0, 255).astype(np.uint8), still)
        for c in (curve, other, curve + rng.normal(size=(samples, 9)))
    )
    threshold = ShardConfig().duplicate_likeness
    assert (likeness(one, two) > threshold) == is_copy
    assert likeness(one, same) > threshold


@pytest.mark.parametrize("all_pairs", [True, False])
def test_the_best_copy_stays(monkeypatch, all_pairs):
    if not all_pairs:
        monkeypatch.setattr("preprocessing.dataset.duplicates._ALL_PAIRS", 2)
    signatures = {f"k{n}": sign(n, n % 3) for n in range(12)}
    for n in range(6):
        kind = ("coded", "mirror", "late")[n % 3]
        signatures[f"z{n}"] = sign(n, n % 3, kind)
    rank = {key: (512.0 if key != "k0" else 256.0, 120.0) for key in signatures}
    sources = {key: key for key in signatures}
    found = find_duplicates(signatures, rank, sources, 0.85)
    assert found == {"k0": "z0", **{f"z{n}": f"k{n}" for n in range(1, 6)}}
    backwards = dict(reversed(list(signatures.items())))
    assert find_duplicates(backwards, rank, sources, 0.85) == found


def test_clips_of_one_source_are_never_compared():
    signatures = {"a": sign(0), "b": sign(0)}
    rank = dict.fromkeys(signatures, (1.0,))
    assert find_duplicates(signatures, rank, {"a": "s", "b": "s"}, 0.85) == {}


def plainly_alike(a: Signature, b: Signature) -> float:
    """The likeness by its definition: every shift, one after the other."""
    return max(_plain_agreement(a, b), _plain_agreement(a, b.mirrored()))


def _plain_agreement(a: Signature, b: Signature) -> float:
    short = min(len(a.curves), len(b.curves))
    reach = min(int(short * duplicates._SHIFT), max(duplicates._FEW, short - duplicates._OVERLAP))
    best = -1.0
    for shift in range(-len(b.curves), len(a.curves)):
        x, y = max(0, shift), max(0, -shift)
        count = min(len(a.curves) - x, len(b.curves) - y)
        if count < max(short - reach, 1):
            continue
        one, other = (
            part - part.astype(float).mean(axis=0)
            for part in (a.curves[x : x + count], b.curves[y : y + count])
        )
        norm = np.sqrt((one**2).sum() * (other**2).sum())
        like = (one * other).sum() / norm if norm > 0 else 0.0
        value = 1 - (1 - like) * max(1.0, duplicates._ENOUGH / count)
        path = duplicates._same_path(a.path[x : x + count], b.path[y : y + count])
        best = max(best, min(value, path))
    return best


@pytest.mark.parametrize("seed", range(40))
def test_likeness_is_what_trying_every_shift_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    length_a, length_b = rng.integers(1, 130, 2)
    walk = np.cumsum(rng.normal(0, 3, (300, 12)), axis=0) + 128
    start = rng.integers(0, 60)
    noise = rng.choice([0.0, 2.0, 40.0])

    def seen(first: int, length: int, disturbed: float) -> Signature:
        part = walk[first : first + length] + rng.normal(0, disturbed, (length, 12))
        both = np.clip(part, 0, 255).astype(np.uint8)
        return Signature(np.ones(64, np.float32), both[:, :9], both[:, 9:])

    a, b = seen(0, length_a, 0.0), seen(start, length_b, noise)
    if seed % 10 == 0:
        b.curves[:] = 7
    expected = plainly_alike(a, b)
    assert duplicates.likeness(a, b) == pytest.approx(expected, abs=1e-12)
    for least in (0.5, 0.9):
        # The shortcut decides the same.
        assert duplicates._is_copy(a, b, least) == (expected >= least)
