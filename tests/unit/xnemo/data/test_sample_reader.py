"""Samples by number: reproducible, correct, and replaced if bad."""

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import skimage.data
import torch
from fsspec.implementations.memory import MemoryFileSystem
from numpy.typing import NDArray

from preprocessing.errors import UserError
from preprocessing.geometry import crop_resize, driving_crop_boxes, reference_crop_box, resize
from preprocessing.storage.sample import read_member, unpack_arrays
from xnemo.data.batch_plan import BatchPlan
from xnemo.data.clip_table import open_clips
from xnemo.data.config import AugmentConfig, DataConfig, PairConfig
from xnemo.data.loader import BatchLoader
from xnemo.data.resize import place_box, resize_frames
from xnemo.data.sample_reader import ImageSizes, SampleReader
from xnemo.evaluation.held_out import driving_crops, read_held_out

SIZES = ImageSizes(wide=32, driving=24, head=16)
STILL = AugmentConfig(
    brightness=0, contrast=0, saturation=0, hue=0, scale=0, aspect=0, shift=0, warp=0
)


def open_reader(
    root: Path, augment: AugmentConfig = STILL, sizes: ImageSizes = SIZES, **data: object
) -> SampleReader:
    config = DataConfig(filter="", constant_box_probability=0, **data)  # type: ignore[arg-type]
    # A Path swallows one of a URL's slashes.
    name = str(root).replace(":/", "://")
    return SampleReader(open_clips([name], config.filter), config, augment, sizes, seed=3)


def test_shapes_and_types(faces: Path) -> None:
    reader = open_reader(faces, AugmentConfig(), pairs=PairConfig(frames=3))
    batch = reader.read_batch([5, 6])
    assert batch.reference_BCHW.shape == (2, 3, 32, 32)
    assert batch.target_BCFHW.shape == (2, 3, 3, 32, 32)
    assert batch.driving_BCFHW.shape == (2, 3, 3, 24, 24)
    assert batch.reference_pose_BCHW.shape == (2, 3, 24, 24)
    assert batch.head_reference_BCHW is not None
    assert batch.head_reference_BCHW.shape == (2, 3, 16, 16)
    assert batch.box_BF3.shape == (2, 3, 3)
    assert batch.target_BCFHW.dtype == torch.uint8
    moved = batch.to("cpu")
    assert moved.target_BCFHW.dtype == torch.float32
    assert -1 <= float(moved.target_BCFHW.min()) <= float(moved.target_BCFHW.max()) <= 1


def test_pictures_are_those_of_the_clip(faces: Path) -> None:
    from preprocessing.decode import decode_clip

    reader = open_reader(faces, sizes=ImageSizes(wide=64, driving=24, head=None))
    sample = reader.read(0)
    row = reader.clips.rows[reader.clips.rows["key"] == sample.key].iloc[0].to_dict()
    whole = decode_clip(read_member(str(faces), row, "mp4"))
    matches = [i for i, frame in enumerate(whole) if np.array_equal(frame, sample.target[0])]
    assert len(matches) == 1
    assert sample.head_target is None
    assert np.array_equal(resize(whole[matches[0]], 64), sample.target[0])


def test_portrait_framing_is_that_of_animation(faces: Path) -> None:
    """Reference and targets are cut by one box, twice the reference's face."""
    from preprocessing.decode import decode_clip

    tube = open_reader(faces).read(0)
    sample = open_reader(faces, framing="portrait").read(0)
    rows = open_reader(faces).clips.rows
    row = rows[rows["key"] == sample.key].iloc[0].to_dict()
    whole = decode_clip(read_member(str(faces), row, "mp4"))
    boxes = unpack_arrays(read_member(str(faces), row, "npz")).bbox_crop
    framed = [
        [
            crop_resize(frame, reference_crop_box(box, frame.shape[:2]), 32).astype(int)
            for frame in whole
        ]
        for box in boxes
    ]

    def nearest(image: NDArray[np.uint8], candidates: list[NDArray[np.int_]]) -> tuple[float, int]:
        distances = [float(abs(x - image).mean()) for x in candidates]
        return min(distances), int(np.argmin(distances))

    own = [frames[number] for number, frames in enumerate(framed)]
    distance, reference = nearest(sample.reference[0], own)
    assert distance < 0.2
    distance, target = nearest(sample.target[0], framed[reference])
    assert distance < 0.2
    assert target != reference
    # Driving crops and vectors do not depend on it.
    assert np.array_equal(tube.driving, sample.driving)
    assert np.array_equal(tube.box_F3, sample.box_F3)
    # Where the crop box is the whole tube, both framings give one picture.
    both = open_reader(faces), open_reader(faces, framing="portrait")
    pairs = [tuple(reader.read(number).target for reader in both) for number in range(6)]
    assert not all(np.array_equal(*pair) for pair in pairs)


@pytest.mark.parametrize(("side", "size"), [(512, 256), (512, 224), (283, 128), (97, 128)])
def test_pictures_are_resized_as_where_they_are_animated(side: int, size: int) -> None:
    whole = skimage.data.astronaut()
    # A part of a larger picture, as crops are; its edges must not see what lies around it.
    cut = whole[7 : 7 + side, 512 - side :] if side < 500 else whole
    quick, exact = resize_frames(cut[None], size)[0].astype(int), resize(cut, size).astype(int)
    assert quick.shape == (size, size, 3)
    assert np.abs(quick - exact).max() <= 2
    assert (quick != exact).mean() < 0.01


def test_box_vector_compares_target_with_reference(faces: Path) -> None:
    sample = open_reader(faces).read(1)
    # The faces shift by at most 12 of 32 pixels and grow by at most a fifth.
    assert np.abs(sample.box_F3[:, :2]).max() < 0.5
    assert np.all((sample.box_F3[:, 2] > 0.8) & (sample.box_F3[:, 2] < 1.25))
    constant = SampleReader(
        open_clips([str(faces)], ""),
        DataConfig(filter="", constant_box_probability=1),
        STILL,
        SIZES,
        seed=3,
    )
    assert np.array_equal(constant.read(1).box_F3, [[0, 0, 1]])


def test_a_sample_depends_on_seed_and_number_alone(faces: Path) -> None:
    first, second = (open_reader(faces, AugmentConfig()) for _ in range(2))
    second.read(3)
    a, b = first.read(9), second.read(9)
    assert a.key == b.key
    assert np.array_equal(a.driving, b.driving)
    assert not np.array_equal(a.driving, first.read(9 + 6).driving)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing(faces: Path, workers: int) -> None:
    reader = open_reader(faces, AugmentConfig(), workers=workers, threads=3)
    plan = BatchPlan(4, 2)
    with BatchLoader(reader, plan, samples_seen=8) as loader:
        got = [next(loader)[0] for _ in range(5)]
    expected = [m for seen in (8, 12, 16) for m in plan.step(seen)][:5]
    for batch, micro in zip(got, expected, strict=True):
        direct = reader.read_batch(micro.indices)
        assert batch.keys == direct.keys
        assert torch.equal(batch.driving_BCFHW, direct.driving_BCFHW)


def test_opencv_adds_no_threads_to_the_loaders_own(faces: Path) -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(4)
    try:
        with BatchLoader(open_reader(faces, AugmentConfig()), BatchPlan(2, 2)) as loader:
            next(loader)
        assert cv2.getNumThreads() == 1
    finally:
        cv2.setNumThreads(before)


def test_an_object_store_gives_the_same_samples_by_one_read_each(
    faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(faces), "/bucket/faces", recursive=True)
    local = open_reader(faces, AugmentConfig()).read_batch(range(8))
    remote = open_reader(Path("memory://bucket/faces"), AugmentConfig())
    reads = []
    cat_file = MemoryFileSystem.cat_file
    monkeypatch.setattr(
        MemoryFileSystem, "cat_file", lambda *a, **k: (reads.append(a), cat_file(*a, **k))[1]
    )
    batch = remote.read_batch(range(8))
    assert len(reads) == 8
    assert batch.keys == local.keys
    assert torch.equal(batch.driving_BCFHW, local.driving_BCFHW)
    assert torch.equal(batch.target_BCFHW, local.target_BCFHW)
    memory.rm("/bucket", recursive=True)


def damage(root: Path, key: str) -> None:
    clips = open_clips([str(root)], "")
    row = clips.rows[clips.rows["key"] == key].iloc[0]
    path = root / "shards" / row["shard"]
    content = bytearray(path.read_bytes())
    start = int(row["mp4_offset"])
    content[start : start + int(row["mp4_length"])] = bytes(int(row["mp4_length"]))
    path.write_bytes(content)


def test_a_bad_clip_is_replaced_and_named(faces: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(faces, root)
    reader = open_reader(root, retries=0)
    bad = reader.clips.rows["key"].iloc[2]
    damage(root, bad)
    number = next(n for n in range(6) if reader.order.at(n) == 2)
    sample = reader.read(number)
    assert sample.key != bad
    assert len(sample.faults) == 1
    assert bad in sample.faults[0]
    assert "000000.tar" in sample.faults[0]
    assert reader.read(number).key == sample.key
    strict = open_reader(root, retries=0, max_bad_samples=0)
    with pytest.raises(UserError, match=bad):
        strict.read(number)


def test_verify_detects_altered_bytes(faces: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(faces, root)
    reader = open_reader(root, retries=0, verify=True, max_bad_samples=0)
    row = reader.clips.rows.iloc[0]
    path = root / "shards" / row["shard"]
    content = bytearray(path.read_bytes())
    content[int(row["mp4_offset"]) + int(row["mp4_length"]) - 5] ^= 1
    path.write_bytes(content)
    number = next(n for n in range(6) if reader.order.at(n) == 0)
    with pytest.raises(UserError, match="sha256"):
        reader.read(number)


def test_a_missing_shard_is_named(faces: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(faces, root)
    reader = open_reader(root, retries=0)
    (root / "shards" / "000000.tar").unlink()
    with pytest.raises(UserError, match=r"000000\.tar"):
        reader.read(0)


def test_clips_without_identity_count_as_identities(faces: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(faces, root)
    table = pq.read_table(root / "index.parquet")
    place = table.schema.names.index("identity")
    names = [None, "", "person0", "person0", "person0", "person0"]
    pq.write_table(table.set_column(place, "identity", [names]), root / "index.parquet")
    reader = open_reader(root, balance="identity")
    rows = [reader.order.at(n) for n in range(12)]
    assert [rows.count(row) for row in range(6)] == [4, 4, 1, 1, 1, 1]


def test_a_loader_process_is_sent_little_of_a_large_index(faces: Path) -> None:
    clips = open_clips([str(faces)], "")
    many = pd.concat([clips.rows] * 2000, ignore_index=True)
    many["key"] = [f"{key}{number}" for number, key in enumerate(many["key"])]
    large = replace(clips, rows=many, sizes=(len(many),))
    reader = SampleReader(large, DataConfig(filter=""), STILL, SIZES, seed=3)
    assert len(pickle.dumps(reader)) / len(many) < 700


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_are_one_line_from_threads_and_processes(
    faces: Path, tmp_path: Path, workers: int
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(faces, root)
    (root / "shards" / "000000.tar").unlink()
    reader = open_reader(root, workers=workers, retries=0, max_bad_samples=0)
    with (
        BatchLoader(reader, BatchPlan(2, 2)) as loader,
        pytest.raises(UserError, match=r"sample 0 cannot be read: .*000000.tar") as refusal,
    ):
        next(loader)
    assert "\n" not in str(refusal.value)


def test_an_empty_selection_is_an_error(faces: Path) -> None:
    with pytest.raises(UserError, match="0 after the filter"):
        open_clips([str(faces)], "face_px > 4000")
    with pytest.raises(UserError, match="is not a finished data set"):
        open_clips([str(faces / "shards")], "")


def test_weights_must_match_the_data_sets(faces: Path) -> None:
    with pytest.raises(UserError, match="2 values for 1 data sets"):
        open_reader(faces, weights=(1.0, 2.0))


@pytest.mark.parametrize("mirror", [0.0, 1.0])
def test_an_unaugmented_driving_crop_is_that_of_animation(faces: Path, mirror: float) -> None:
    augment = replace(STILL, mirror=mirror)
    reader = open_reader(faces, augment, pairs=PairConfig(frames=3))
    clips = {clip.key: clip for clip in read_held_out([str(faces)], "", clips=9, frames=99)}
    for n in range(6):
        sample = reader.read(n)
        clip = clips[sample.key]
        whole = driving_crops(clip, SIZES.driving).astype(int)
        if mirror:
            whole = whole[:, :, ::-1]
        for crop in sample.driving:
            difference = np.abs(whole - crop).reshape(len(whole), -1)
            assert difference.mean(axis=1).min() < 0.05
            assert difference.max(axis=1).min() <= 2


def test_a_constant_box_comes_with_a_target_whose_face_is_there(faces: Path) -> None:
    clips = open_clips([str(faces)], "")
    sizes = ImageSizes(wide=64, driving=24, head=64, wide_head=True)
    told = {}
    for probability in (0.0, 1.0):
        data = DataConfig(filter="", constant_box_probability=probability)
        told[probability] = SampleReader(clips, data, STILL, sizes, seed=3)
    for n in range(4):
        free, fixed = told[0.0].read(n), told[1.0].read(n)
        assert np.array_equal(fixed.box_F3, [[0, 0, 1]])
        dy, dx, scale = free.box_F3[0]
        assert np.abs([dy, dx, scale - 1]).max() > 0.005
        clip = next(c for c in read_held_out([str(faces)], "", clips=9, frames=99)
                    if c.key == free.key)  # fmt: skip
        [at] = [i for i, frame in enumerate(clip.frames) if np.array_equal(frame, free.target[0])]
        [start] = [
            i for i, frame in enumerate(clip.frames) if np.array_equal(frame, free.reference[0])
        ]
        moved = place_box(free.target[0], clip.boxes[at], clip.boxes[start])
        assert np.array_equal(fixed.target[0], moved)
        assert fixed.head_target is not None
        assert np.array_equal(fixed.head_target, fixed.target)
        assert np.array_equal(fixed.driving, free.driving)


def test_a_placed_box_has_centre_and_side_of_the_other() -> None:
    y, x = np.mgrid[:96, :128]
    frame = np.repeat(
        np.uint8(255 * ((abs(x - 39.5) < 10) & (abs(y - 29.5) < 10)))[..., None], 3, 2
    )
    moved = place_box(frame, [30, 20, 50, 40], [60, 30, 90, 60])[..., 0] > 127
    ys, xs = np.nonzero(moved)
    assert [xs.min(), xs.max() + 1, ys.min(), ys.max() + 1] == [60, 90, 30, 60]


def test_a_frame_without_a_face_does_not_spoil_the_crops_of_others() -> None:
    boxes = np.array([[10.0, 10, 30, 30], [np.nan] * 4, [14, 10, 34, 30]])
    filled = boxes.copy()
    filled[1] = [12, 10, 32, 30]
    expected = driving_crop_boxes(filled, (64, 64))
    np.testing.assert_array_equal(driving_crop_boxes(boxes, (64, 64)), expected)
