from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xnemo.diffusion.sampler import make_windows


@given(
    frames=st.integers(1, 300),
    size=st.integers(1, 40),
    share=st.floats(0, 0.99),
    offset=st.integers(0, 500),
)
def test_every_frame_is_visited_in_windows_of_one_size(frames, size, share, offset):
    overlap = int(size * share)
    windows = make_windows(frames, size, overlap, offset)
    visits = Counter(frame for window in windows for frame in window)
    assert set(visits) == set(range(frames))
    for window in windows:
        assert len(window) == min(frames, size)
        assert len(set(window)) == len(window)
        assert all((b - a) % frames == 1 % frames for a, b in pairwise(window))


def test_neighbours_share_the_overlap():
    first, second = make_windows(44, 24, 4, 7)[:2]
    assert first[-4:] == second[:4]


@pytest.mark.parametrize("arguments", [(0, 24, 4), (10, 4, 4), (10, 4, -1)])
def test_windows_that_cannot_advance_are_refused(arguments):
    with pytest.raises(ValueError, match="no windows"):
        make_windows(*arguments)
