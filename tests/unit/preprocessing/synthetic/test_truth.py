"""Truth files: what is written is read, and anything else is reported in one line."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from preprocessing.errors import UserError
from preprocessing.synthetic import sample_motion
from preprocessing.synthetic.truth import Truth, is_truth, read_truth, truth_name, write_truth

TIMES = np.arange(10) / 25


def content():
    return write_truth(Truth(TIMES, sample_motion(1, TIMES), {"person": 4, "group": 2}))


def test_what_is_written_is_read():
    truth = read_truth(content())
    assert np.array_equal(truth.motion, sample_motion(1, TIMES))
    assert np.array_equal(truth.times_s, TIMES)
    assert truth.facts == {"person": 4, "group": 2}
    assert content() == content()
    assert pq.read_schema(io.BytesIO(content())).field("yaw").metadata == {b"unit": b"degrees"}


def test_rows_between_frames_are_interpolated():
    truth = read_truth(content())
    middle = truth.at(np.array([0.02, 99]))
    assert middle[0] == pytest.approx(truth.motion[:2].mean(0), abs=1e-5)
    assert np.array_equal(middle[1], truth.motion[-1])


def test_names():
    assert truth_name("a/b.c.mp4") == "a/b.c.parquet"
    assert truth_name("s3://x.y/plain") == "s3://x.y/plain.parquet"


def test_other_tables_are_not_truth_files():
    file = io.BytesIO()
    pq.write_table(pa.table({"yaw": [1.0]}), file)
    assert not is_truth(file.getvalue())
    assert not is_truth(b"no table")
    with pytest.raises(UserError, match="not a truth file"):
        read_truth(file.getvalue())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns(["jawOpen"]), "has no column jawOpen"),
        (lambda t: t.append_column("smell", t["yaw"]), "unknown column smell"),
        (
            lambda t: t.set_column(
                1, t.schema.field(1), pa.array([float("nan")] * 10, pa.float32())
            ),
            "has nan in column yaw, row 0",
        ),
    ],
)
def test_damaged_truth_is_one_line(change, message):
    table = change(pq.read_table(io.BytesIO(content())))
    file = io.BytesIO()
    pq.write_table(table, file)
    with pytest.raises(UserError, match=message):
        read_truth(file.getvalue(), "clip.parquet")
