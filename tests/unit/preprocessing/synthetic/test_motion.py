"""Motion: a pure function of seed and time, written by hand or read from a table."""

import numpy as np
import pandas as pd
import pytest

from preprocessing.errors import UserError
from preprocessing.synthetic import MOTION_COLUMNS, make_motion, read_motion, sample_motion
from preprocessing.synthetic.motion.columns import ACTIONS, COLUMN, GAZE_ACTIONS, sided

TIMES = np.arange(100) / 25


def test_rows_depend_on_seed_and_time_alone():
    whole = sample_motion(3, TIMES)
    assert whole.shape == (100, 52)
    assert whole.dtype == np.float32
    assert np.array_equal(sample_motion(3, TIMES[40:60:3]), whole[40:60:3])
    longer = sample_motion(3, np.arange(2000) / 25)
    assert np.array_equal(longer[:100], whole)
    assert not np.array_equal(sample_motion(4, TIMES), whole)


def test_motion_stays_within_its_limits_and_uses_every_column():
    motion = np.concatenate([sample_motion(seed, np.arange(500) / 25) for seed in range(8)])
    actions = motion[:, [COLUMN[name] for name in ACTIONS]]
    assert actions.min() >= 0
    assert actions.max() <= 1
    assert np.abs(motion[:, COLUMN["yaw"]]).max() <= 32
    assert (np.ptp(motion, axis=0) > 0).all()
    assert (motion[:, COLUMN["mouthClose"]] <= motion[:, COLUMN["jawOpen"]]).all()


def test_motion_by_hand():
    row = make_motion({"jawOpen": 0.6}, yaw=10)
    assert row[0, COLUMN["jawOpen"]] == np.float32(0.6)
    assert row.sum() == pytest.approx(10.6, abs=1e-5)
    with pytest.raises(UserError, match="'jaw' is not a motion column"):
        make_motion(jaw=1)
    with pytest.raises(UserError, match="yaw of frame 0 is nan"):
        make_motion(yaw=np.nan)


def own_table():
    return pd.DataFrame(sample_motion(0, TIMES[:5]), columns=list(MOTION_COLUMNS))


def test_own_table_is_read_back(tmp_path):
    own_table().to_parquet(tmp_path / "m.parquet")
    assert np.array_equal(read_motion(tmp_path / "m.parquet"), sample_motion(0, TIMES[:5]))


def test_arkit_capture_is_read(tmp_path):
    names = [*ACTIONS, *sided(*GAZE_ACTIONS)]
    table = pd.DataFrame(np.zeros((3, 52)), columns=[n[0].upper() + n[1:] for n in names])
    table["JawOpen"] = [0, 0.5, 1]
    table["EyeLookOutLeft"] = table["EyeLookInRight"] = 0.5
    table["HeadYaw"] = np.radians([0, 10, 20])
    table["Timecode"] = "00:00:00:00"
    table.to_csv(tmp_path / "m.csv", index=False)
    motion = read_motion(tmp_path / "m.csv")
    assert motion[:, COLUMN["jawOpen"]].tolist() == [0, 0.5, 1]
    assert motion[:, COLUMN["yaw"]] == pytest.approx([0, 10, 20], abs=1e-4)
    assert motion[0, COLUMN["gaze_yaw"]] == pytest.approx(12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="jawOpen"), "has no column jawOpen"),
        (lambda t: t.assign(smell=1.0), "unknown column smell"),
        (lambda t: t.assign(yaw=np.nan), "yaw of frame 0 is nan"),
        (lambda t: t.assign(yaw="left"), "column yaw of .* holds text"),
    ],
)
def test_bad_tables_are_one_line(tmp_path, change, message):
    change(own_table()).to_csv(tmp_path / "m.csv", index=False)
    with pytest.raises(UserError, match=message) as error:
        read_motion(tmp_path / "m.csv")
    assert "\n" not in str(error.value)


def test_missing_table_is_one_line(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_motion(tmp_path / "m.csv")
