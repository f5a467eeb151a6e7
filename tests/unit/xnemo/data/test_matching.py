"""Matched pairs: the driving frames are another person's, at the same moment of the same motion."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from preprocessing.errors import UserError
from xnemo.data.clip_table import open_clips
from xnemo.data.config import AugmentConfig, DataConfig, PairConfig
from xnemo.data.matching import MotionGroups
from xnemo.data.motion_numbers import READOUT_COLUMNS
from xnemo.data.sample_reader import ImageSizes, SampleReader

SUPPORT = Path(__file__).resolve().parents[3] / "support"
STILL = AugmentConfig(
    brightness=0, contrast=0, saturation=0, hue=0, scale=0, aspect=0, shift=0, warp=0
)
YAW, JAW = READOUT_COLUMNS.index("yaw"), READOUT_COLUMNS.index("jawOpen")


def write(root: Path, *, matched: bool) -> Path:
    spec = importlib.util.spec_from_file_location("moving_faces", SUPPORT / "moving_faces.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written: Path = module.write_dataset(root, clips=9, matched=matched)
    return written


@pytest.fixture(scope="module")
def matched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("matched"), matched=True)


def reader(root: Path, probability: float, **sizes: bool) -> SampleReader:
    data = DataConfig(
        filter="frames > 0",
        pairs=PairConfig(frames=3, matched=probability),
        constant_box_probability=0.0,
    )
    clips = open_clips([str(root)], data.filter)
    shape = ImageSizes(wide=64, driving=32, head=None, **sizes)
    return SampleReader(clips, data, STILL, shape, seed=0)


def test_a_mate_is_another_person_with_the_same_motion(matched: Path) -> None:
    clips = open_clips([str(matched)], "frames > 0")
    rows = clips.rows
    groups = MotionGroups(clips)
    rng = np.random.default_rng(0)
    seen = set()
    for row in range(len(rows)):
        for _ in range(30):
            mate = groups.draw(row, rng)
            assert mate is not None
            assert rows.motion_group[mate.row] == rows.motion_group[row]
            assert rows.identity[mate.row] != rows.identity[row]
            milliseconds = rows.start_ms[row] - rows.start_ms[mate.row]
            assert mate.shift == milliseconds / 40
            seen.add((row, mate.row))
    assert len(seen) == 18


def test_frames_outside_the_mate_are_not_used(matched: Path) -> None:
    clips = open_clips([str(matched)], "frames > 0")
    first = clips.rows.start_ms.to_numpy()
    row = int(np.argmax(first))
    groups = MotionGroups(clips)
    mate = next(
        m
        for m in (groups.draw(row, np.random.default_rng(seed)) for seed in range(20))
        if m is not None and m.shift == 4
    )
    boxes = np.ones((20, 4))
    boxes[6] = np.nan
    usable = mate.usable(boxes, 20)
    assert np.flatnonzero(~usable).tolist() == [2, 16, 17, 18, 19]


def test_only_the_driving_side_of_a_sample_changes(matched: Path) -> None:
    always, never = (reader(matched, p, motion_numbers=True) for p in (1.0, 0.0))
    differing = 0
    for n in range(9):
        crossed, own = always.read(n), never.read(n)
        assert crossed.key == own.key
        tint = crossed.target.reshape(-1, 3).mean(axis=0) / crossed.target.mean()
        driving = crossed.driving.reshape(-1, 3).mean(axis=0) / crossed.driving.mean()
        own_driving = own.driving.reshape(-1, 3).mean(axis=0) / own.driving.mean()
        # People differ by the tint of their picture.
        assert np.abs(own_driving - tint).max() < 0.12
        differing += np.abs(driving - own_driving).max() > 0.12
    assert differing == 9


def test_motion_numbers_are_those_of_the_target_frames(matched: Path) -> None:
    crossed = reader(matched, 1.0, motion_numbers=True)
    for n in range(6):
        sample = crossed.read(n)
        row = int(np.flatnonzero(crossed.clips.rows.key == sample.key)[0])
        own = crossed.read_motion(row)
        assert sample.motion_FK is not None
        for numbers in sample.motion_FK:
            # The motion at the target's moment, read from the mate's own table.
            assert np.abs(own[:, [YAW, JAW]] - numbers[[YAW, JAW]]).max(axis=1).min() < 1e-5


def test_a_data_set_without_groups_cannot_be_matched(tmp_path: Path) -> None:
    plain = write(tmp_path, matched=False)
    with pytest.raises(UserError, match="no two people of the data make the same motion"):
        reader(plain, 0.5)


def test_an_old_index_without_the_column_cannot_be_matched(matched: Path) -> None:
    clips = open_clips([str(matched)], "frames > 0")
    del clips.rows["motion_group"]
    with pytest.raises(UserError, match="people-per-motion"):
        MotionGroups(clips)
