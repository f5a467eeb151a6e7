import numpy as np

from pipelines.demo.motion import LIMITS, MOTION_NAMES, neutral, sample_motion


def test_the_same_motion_at_any_frame_rate():
    at_25 = sample_motion([3, 1], np.arange(100) / 25)
    at_50 = sample_motion([3, 1], np.arange(300) / 50)
    np.testing.assert_allclose(at_50[:200:2], at_25, atol=1e-6)


def test_motion_stays_within_its_limits_and_uses_them():
    motion = np.concatenate([sample_motion(seed, np.arange(250) / 25) for seed in range(8)])
    assert motion.dtype == np.float32
    assert motion.shape[1] == len(MOTION_NAMES) == len(LIMITS)
    assert (abs(motion) <= LIMITS + 1e-6).all()
    assert (np.ptp(motion, axis=0) > 0.8 * LIMITS).all()
    for name in ("mouth", "blink"):
        assert motion[:, MOTION_NAMES.index(name)].min() < 1e-5


def test_motion_is_smooth_and_seeded():
    times = np.arange(500) / 25
    motion = sample_motion(0, times)
    pose = motion[:, :6] / LIMITS[:6]
    assert abs(np.diff(pose, axis=0)).max() < 0.25
    np.testing.assert_array_equal(motion, sample_motion(0, times))
    assert abs(motion - sample_motion(1, times)).mean() > 0.1
    assert not neutral(4).any()
    assert not motion[0].any()
