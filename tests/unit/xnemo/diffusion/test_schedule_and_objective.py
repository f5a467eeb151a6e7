import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from preprocessing.errors import UserError
from xnemo.diffusion.initial_latents import blur, frame_noise, initial_latents
from xnemo.diffusion.objective import diffusion_loss
from xnemo.diffusion.schedule import DiffusionConfig, NoiseSchedule
from xnemo.diffusion.scheduler import make_scheduler

CONFIGS = [
    DiffusionConfig(),
    DiffusionConfig(prediction_type="v_prediction"),
    DiffusionConfig(prediction_type="v_prediction", zero_terminal_snr=True),
    DiffusionConfig(beta_schedule="linear", beta_end=0.012),
    DiffusionConfig(prediction_type="sample", zero_terminal_snr=True),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_noising_and_targets_are_the_schedulers(config):
    ours = NoiseSchedule(config)
    theirs = DDIMScheduler(**config.scheduler_arguments(), clip_sample=False)
    torch.testing.assert_close(ours.alphas_cumprod, theirs.alphas_cumprod, rtol=1e-5, atol=1e-7)
    z, noise = torch.randn(2, 3, 4, 5, 5, 5)
    t = torch.tensor([0, 500, 998])
    torch.testing.assert_close(
        ours.add_noise(z, noise, t), theirs.add_noise(z, noise, t), rtol=1e-4, atol=1e-5
    )
    if config.prediction_type == "v_prediction":
        expected = theirs.get_velocity(z, noise, t)
        torch.testing.assert_close(ours.target(z, noise, t), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_exact_prediction_recovers_the_latents(config):
    schedule = NoiseSchedule(config)
    z, noise = torch.randn(2, 3, 4, 6, 6)
    t = torch.tensor([1, 400, 800])
    noisy, target = schedule.add_noise(z, noise, t), schedule.target(z, noise, t)
    torch.testing.assert_close(
        schedule.predicted_latents(noisy, target, t), z, rtol=1e-3, atol=1e-3
    )
    assert diffusion_loss(schedule, target, z, noise, t).max() == 0


def test_zero_terminal_snr_leaves_nothing_at_the_last_step():
    schedule = NoiseSchedule(CONFIGS[2])
    assert schedule.alphas_cumprod[-1] == 0
    assert schedule.alphas_cumprod[0] == NoiseSchedule(CONFIGS[1]).alphas_cumprod[0]


def test_min_snr_caps_easy_timesteps_only():
    t = torch.arange(1000)
    plain = NoiseSchedule(DiffusionConfig())
    snr = plain.alphas_cumprod / (1 - plain.alphas_cumprod)
    weights = NoiseSchedule(DiffusionConfig(min_snr_gamma=5.0)).loss_weights(t)
    assert torch.equal(weights[snr <= 5], torch.ones(int((snr <= 5).sum())))
    torch.testing.assert_close(weights[snr > 5], 5 / snr[snr > 5])
    # An error e of the clean latents is √snr·e in ε and √(snr + 1)·e in v: both must weigh alike.
    v = NoiseSchedule(DiffusionConfig(prediction_type="v_prediction", min_snr_gamma=5.0))
    torch.testing.assert_close(v.loss_weights(t) * (snr + 1), weights * snr)
    x = NoiseSchedule(DiffusionConfig(prediction_type="sample", min_snr_gamma=5.0))
    torch.testing.assert_close(x.loss_weights(t), weights * snr)
    assert torch.equal(plain.loss_weights(t), torch.ones(1000))


def test_loss_is_per_sample_and_ignores_what_is_masked():
    schedule = NoiseSchedule(DiffusionConfig())
    z, noise = torch.zeros(2, 2, 1, 3, 2, 2)
    prediction = noise.clone()
    prediction[1, :, 0] += 2.0
    prediction[0, :, 2] += 100.0
    t = torch.tensor([10, 10])
    mask = torch.ones(2, 1, 3, 1, 1)
    mask[0, :, 2] = 0
    loss = diffusion_loss(schedule, prediction, z, noise, t, mask)
    torch.testing.assert_close(loss, torch.tensor([0.0, 4 / 3]))


def test_blur_is_a_convolution_with_mirrored_borders():
    z = torch.randn(2, 3, 16, 12)
    x = torch.arange(-4, 5, dtype=torch.float32)
    line = torch.exp(-0.5 * (x / 18) ** 2)
    kernel = torch.outer(line, line) / line.sum() ** 2
    padded = torch.nn.functional.pad(z, (4, 4, 4, 4), mode="reflect")
    expected = torch.nn.functional.conv2d(padded, kernel.expand(3, 1, 9, 9), groups=3)
    torch.testing.assert_close(blur(z), expected)
    # A box blur, nearly: the weights differ by less than three per cent.
    assert kernel.max() / kernel.min() < 1.06
    assert blur(torch.randn(1, 4, 3, 2)).shape == (1, 4, 3, 2)


def test_initial_latents_are_the_noised_blurred_reference():
    schedule = NoiseSchedule(DiffusionConfig())
    z = torch.randn(1, 4, 8, 8)
    signal = schedule.alphas_cumprod[953]
    got = initial_latents(z, 5, signal, torch.Generator().manual_seed(3))
    noise = frame_noise(5, (4, 8, 8), torch.Generator().manual_seed(3), z)
    expected = schedule.add_noise(
        blur(z)[:, :, None].expand(1, 4, 5, 8, 8), noise, torch.tensor([953])
    )
    torch.testing.assert_close(got, expected)
    plain = initial_latents(z, 5, signal, torch.Generator().manual_seed(3), False)
    assert torch.equal(plain, noise)
    assert not torch.equal(noise[:, :, 0], noise[:, :, 1])


def test_a_frames_noise_does_not_depend_on_the_length():
    z = torch.zeros(1, 4, 8, 8)
    short, long = (frame_noise(n, (4, 8, 8), torch.Generator().manual_seed(0), z) for n in (3, 9))
    assert torch.equal(long[:, :, :3], short)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"beta_start": 0.02, "beta_end": 0.01}, "beta_start"),
        ({"prediction_type": "x0"}, "prediction_type"),
        ({"zero_terminal_snr": True}, "zero_terminal_snr"),
        ({"min_snr_gamma": -1.0}, "min_snr_gamma"),
    ],
)
def test_contradictions_name_the_field(arguments, field):
    with pytest.raises(UserError, match=rf"diffusion\.{field}"):
        DiffusionConfig(**arguments)


def test_zero_terminal_snr_requires_trailing_spacing():
    config = DiffusionConfig(prediction_type="v_prediction", zero_terminal_snr=True)
    with pytest.raises(UserError, match="set spacing to trailing"):
        make_scheduler(config, "ddim", "leading")
    for spacing in ("trailing", "auto"):
        scheduler = make_scheduler(config, "ddim", spacing)
        scheduler.set_timesteps(4)
        assert scheduler.timesteps.tolist() == [999, 749, 499, 249]


def test_timestep_bias_draws_noisier_timesteps():
    plain = NoiseSchedule(DiffusionConfig())
    expected = np.random.default_rng(4).integers(1000)
    assert plain.draw_timestep(np.random.default_rng(4)) == expected
    biased = NoiseSchedule(DiffusionConfig(timestep_bias=2.0))
    rng = np.random.default_rng(4)
    drawn = np.array([biased.draw_timestep(rng) for _ in range(20_000)])
    assert 0 <= drawn.min() <= drawn.max() <= 999
    # The density 3t² over [0, 1) has the mean 3/4 and an eighth of its mass below a half.
    assert drawn.mean() == pytest.approx(750, rel=0.01)
    assert (drawn < 500).mean() == pytest.approx(0.125, abs=0.01)
