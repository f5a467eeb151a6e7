"""Filter expressions: meaning, missing values, and refusals that help."""

import numpy as np
import pandas as pd
import pytest

from preprocessing.errors import UserError
from xnemo.data.selection import select

INDEX = pd.DataFrame(
    {
        "face_px": [100, 256, 300, 512],
        "yaw": [10.0, -70.0, np.nan, 30.0],
        "identity": ["a", "b", None, "d"],
        "split": ["train", "train", "val", "train"],
    }
)


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ("", [0, 1, 2, 3]),
        ("face_px >= 256", [1, 2, 3]),
        ("face_px >= 256 and |yaw| <= 60", [3]),
        ("abs(yaw) > 60 or face_px == 300", [1, 2]),
        ("100 < face_px <= 300", [1, 2]),
        ("not face_px > 256", [0, 1]),
        ("split == 'train' and identity != 'a'", [1, 3]),
        ("identity in ['a', 'd']", [0, 3]),
        ("identity not in ['a', 'd']", [1]),
        ("missing(yaw)", [2]),
        ("not missing(identity) and face_px * 2 - 1 > 600", [3]),
        ("yaw < -face_px + 186", [0]),
        ("identity == '|a|'", []),
        ("True", [0, 1, 2, 3]),
        ("\n  face_px >= 256\n  and |yaw| <= 60\n", [3]),
    ],
)
def test_rows(expression: str, rows: list[int]) -> None:
    assert select(INDEX, expression).index.tolist() == rows


@pytest.mark.parametrize(
    ("expression", "hint"),
    [
        ("face_pixels > 3", "did you mean 'face_px'"),
        ("zzz > 3", "columns are"),
        ("face_px >", "does not parse"),
        ("face_px", "is not a condition"),
        ("split > 3", "one is text"),
        ("face_px == '3'", "one is text"),
        ("split + 1 > 2", "not a number"),
        ("yaw and face_px > 3", "as a condition"),
        ("__import__('os').system('true') == 0", "not allowed"),
        ("face_px.max() > 3", "not allowed"),
        ("face_px in split", "not allowed"),
        ("[x for x in (1,)] == 1", "not allowed"),
        ("face_px in [face_px]", "not allowed"),
        ("face_px > 1 / 0", "divides by zero"),
        ("not " * 5000 + "yaw > 1", "nested too deeply"),
        ("yaw > 1\0", "does not parse"),
    ],
)
def test_refusals_name_the_remedy(expression: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        select(INDEX, expression)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)
