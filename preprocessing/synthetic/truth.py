"""The truth file beside a synthetic video: a row of motion numbers for each frame."""

import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from preprocessing.errors import UserError
from preprocessing.synthetic.motion.columns import MOTION_COLUMNS, UNITS, Motion

TIME_COLUMN = "time_s"
# Key of the file's own metadata; tables without it are not truth files.
_MARK = b"xnemo.truth"


@dataclass(frozen=True)
class Truth:
    """What is known of a video: motion [T, P] (`MOTION_COLUMNS`) at times in seconds [T].

    `facts` tells how the video was made: person, motion, group, seed, size and fps.
    """

    times_s: NDArray[np.float64]
    motion: Motion
    facts: dict[str, Any]

    def at(self, times_s: NDArray[np.floating]) -> Motion:
        """Motion at other times [T, P], linear between frames and constant beyond the ends."""
        rows = [np.interp(times_s, self.times_s, column) for column in self.motion.T]
        return np.stack(rows, axis=1).astype(np.float32)


def truth_name(video: str) -> str:
    """Path or URL of a video's truth file: the video's with the ending .parquet."""
    stem, dot, ending = video.rpartition(".")
    return f"{stem if dot and '/' not in ending else video}.parquet"


def write_truth(truth: Truth) -> bytes:
    """Return the file: `time_s` and a float32 column for each motion number, with units."""
    fields = [pa.field(TIME_COLUMN, pa.float64(), metadata={"unit": "seconds"})]
    fields += [pa.field(n, pa.float32(), metadata={"unit": UNITS[n]}) for n in MOTION_COLUMNS]
    facts = json.dumps(truth.facts, sort_keys=True).encode()
    schema = pa.schema(fields, metadata={_MARK: facts})
    arrays = [pa.array(truth.times_s)]
    arrays += [pa.array(np.ascontiguousarray(column)) for column in truth.motion.T]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), file)
    return file.getvalue()


def is_truth(content: bytes) -> bool:
    """Whether these bytes are a truth file and not any other table."""
    try:
        metadata = pq.read_schema(io.BytesIO(content)).metadata or {}
    except (pa.ArrowException, OSError):
        return False
    return _MARK in metadata


def read_truth(content: bytes, name: str = "the truth file") -> Truth:
    """Read a truth file.

    Raises:
        UserError: it is none, has a missing or unknown column, or a number that is not finite.
    """
    if not is_truth(content):
        raise UserError(f"{name} is not a truth file", "write it by xnemo synthesize")
    table = pq.read_table(io.BytesIO(content))
    expected = [TIME_COLUMN, *MOTION_COLUMNS]
    for column in expected:
        if column not in table.column_names:
            raise UserError(f"{name} has no column {column}", "synthesize the video again")
    for column in table.column_names:
        if column not in expected:
            raise UserError(f"{name} has an unknown column {column}", "remove the column")
    values = {column: table[column].to_numpy() for column in expected}
    for column, numbers in values.items():
        bad = np.flatnonzero(~np.isfinite(numbers.astype(np.float64)))
        if len(bad):
            raise UserError(
                f"{name} has {numbers[bad[0]]} in column {column}, row {bad[0]}",
                "synthesize the video again",
            )
    motion = np.stack([values[column] for column in MOTION_COLUMNS], axis=1).astype(np.float32)
    times = values[TIME_COLUMN].astype(np.float64)
    return Truth(times, motion, json.loads(table.schema.metadata[_MARK]))
