"""Which frames are drawn from a clip."""

import numpy as np
import pytest

from xnemo.data.pairs import choose_frames

POSE = np.stack([np.linspace(-30, 30, 21), np.zeros(21), np.zeros(21)], axis=1)
ALL = np.ones(21, dtype=bool)


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_scattered_targets_differ_from_the_reference_and_cover_the_clip() -> None:
    seen: set[int] = set()
    for seed in range(200):
        reference, targets = choose_frames(ALL, POSE, rng(seed), frames=3, layout="scattered")
        assert reference not in targets
        assert list(targets) == sorted(set(targets))
        seen |= {reference, *targets.tolist()}
    assert seen == set(range(21))


def test_unusable_frames_are_never_drawn() -> None:
    usable = ALL.copy()
    usable[5:15] = False
    for seed in range(50):
        reference, targets = choose_frames(usable, POSE, rng(seed), frames=2, layout="scattered")
        assert usable[reference]
        assert usable[targets].all()
        reference, targets = choose_frames(
            usable, POSE, rng(seed), frames=2, layout="window", stride=2
        )
        assert usable[targets].all()
        assert targets[1] - targets[0] == 2


def test_pose_distance_is_kept_where_the_clip_allows() -> None:
    for seed in range(50):
        reference, targets = choose_frames(
            ALL, POSE, rng(seed), frames=4, layout="scattered", policy="pose_distance",
            min_pose_degrees=15,
        )  # fmt: skip
        assert (np.abs(POSE[targets, 0] - POSE[reference, 0]) >= 15).all()


def test_a_still_clip_gives_its_farthest_frames() -> None:
    reference, targets = choose_frames(
        ALL, POSE * 0.01, rng(0), frames=1, layout="scattered", policy="pose_distance",
        min_pose_degrees=15,
    )  # fmt: skip
    distance = np.abs(POSE[:, 0] - POSE[reference, 0])
    assert distance[targets[0]] >= np.sort(distance)[-2]


def test_missing_pose_does_not_break_the_draw() -> None:
    pose = np.full_like(POSE, np.nan)
    _, targets = choose_frames(
        ALL, pose, rng(0), frames=2, layout="scattered", policy="pose_distance"
    )
    assert len(targets) == 2


@pytest.mark.parametrize("layout", ["scattered", "window"])
def test_too_few_frames_is_an_error(layout: str) -> None:
    usable = np.zeros(21, dtype=bool)
    usable[3] = True
    with pytest.raises(ValueError, match=r"usable|window"):
        choose_frames(usable, POSE, rng(0), frames=3, layout=layout)  # type: ignore[arg-type]
