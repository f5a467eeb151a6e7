"""The sampler against a slow, plain copy of the algorithm."""

import copy
from dataclasses import asdict, replace

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from preprocessing.errors import UserError
from xnemo.diffusion.guidance import Conditions
from xnemo.diffusion.initial_latents import initial_latents
from xnemo.diffusion.sampler import SamplerConfig, make_windows, sample_latents
from xnemo.diffusion.schedule import DiffusionConfig
from xnemo.diffusion.scheduler import make_scheduler
from xnemo.model.unet.config import UNetConfig
from xnemo.model.unet.denoising_unet import DenoisingUNet
from xnemo.model.unet.reference_net import ReferenceNet

UNET = UNetConfig(
    latent_channels=4,
    widths=(16, 32),
    attention=(False, True),
    layers=1,
    heads=2,
    norm_groups=8,
    module_norm_groups=8,
    image_embedding_width=12,
    motion_width=6,
    temporal=True,
    max_frames=8,
)
SAMPLER = SamplerConfig(steps=2, guidance=2.5, window=6, overlap=2)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    denoiser, reference_net = DenoisingUNet(**asdict(UNET)), ReferenceNet.from_unet_config(UNET)
    for network in (denoiser, reference_net):
        for parameter in network.parameters():
            # Zero-initialised layers would hide everything behind them.
            torch.nn.init.normal_(parameter, std=0.15)
    return denoiser.eval(), reference_net.eval()


def make_conditions(model, frames, seed=1):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(1, 4, 8, 8, generator=generator)
    token = torch.randn(1, 1, 12, generator=generator)
    with torch.no_grad():
        reference = model[1](z, token)
    motion = torch.randn(frames, 5, 6, generator=generator)
    negative = torch.randn(1, 5, 6, generator=generator)
    return z, Conditions(token, reference, motion, negative)


def sample(model, frames, config=SAMPLER, seed=0, denoiser=None, **kwargs):
    z, conditions = make_conditions(model, frames)
    scheduler = make_scheduler(DiffusionConfig(), config.scheduler, config.spacing)
    generator = torch.Generator().manual_seed(seed)
    return sample_latents(
        denoiser or model[0], z, conditions, scheduler, config, generator, **kwargs
    )


@torch.no_grad()
def plain_copy(model, frames, config=SAMPLER, seed=0):
    """As the release runs it: two passes for guidance, one window after the other, sums, counts."""
    denoiser = model[0]
    z_ref, c = make_conditions(model, frames)
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.02,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
    )
    scheduler.set_timesteps(config.steps)
    generator = torch.Generator().manual_seed(seed)
    first = scheduler.alphas_cumprod[scheduler.timesteps[0]]
    z = initial_latents(z_ref, frames, first, generator)
    for t in scheduler.timesteps:
        offset = int(torch.randint(config.window, (1,), generator=generator))
        sums, counts = torch.zeros(2, *z.shape[1:]), torch.zeros(frames)
        for window in make_windows(frames, config.window, config.overlap, offset):
            piece, motion = z[:, :, window], c.motion[window][None]
            negative = c.negative_motion[:, None].expand_as(motion)
            none = torch.zeros_like(c.image_embedding)
            sums[0, :, window] += denoiser(piece, t, none, negative, None)[0]
            sums[1, :, window] += denoiser(piece, t, c.image_embedding, motion, c.reference)[0]
            counts[window] += 1
        mean = sums / counts[:, None, None]
        guided = mean[:1] + config.guidance * (mean[1:] - mean[:1])
        z = scheduler.step(guided, t, z).prev_sample
    return z


@pytest.mark.parametrize("frames", [1, 6, 11])
def test_equals_the_plain_copy(model, frames):
    torch.testing.assert_close(
        sample(model, frames), plain_copy(model, frames), rtol=1e-3, atol=1e-4
    )


def test_windows_in_one_batch_equal_windows_one_by_one(model):
    together = sample(model, 11, replace(SAMPLER, windows_per_batch=2))
    torch.testing.assert_close(together, sample(model, 11), rtol=1e-4, atol=1e-5)


def test_guidance_of_one_is_the_conditional_branch_alone(model):
    calls = []

    def counting(z, *rest):
        calls.append(len(z))
        return model[0](z, *rest)

    one = sample(model, 6, replace(SAMPLER, guidance=1.0), denoiser=counting)
    assert set(calls) == {1}
    nearly = sample(model, 6, replace(SAMPLER, guidance=1.0 + 1e-6))
    torch.testing.assert_close(one, nearly, rtol=1e-3, atol=1e-4)


def test_only_the_generator_is_random(model):
    torch.manual_seed(1)
    first = sample(model, 9)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(sample(model, 9), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(sample(model, 9, seed=5), first)


@pytest.mark.parametrize("scheduler", ["dpm", "unipc"])
def test_multistep_schedulers_reach_the_result_of_many_ddim_steps(scheduler):
    """With a denoiser whose answer is known, every scheduler must end at the data."""
    goal = torch.linspace(-1, 1, 4 * 64).view(1, 4, 1, 8, 8)
    table = make_scheduler(DiffusionConfig()).alphas_cumprod

    def oracle(z, t, *_):
        kept = table[t]
        return (z - kept.sqrt() * goal) / (1 - kept).sqrt()

    config = replace(SAMPLER, scheduler=scheduler, steps=8, guidance=1.0)
    model = (oracle, lambda z, token: ReferenceNet.from_unet_config(UNET).eval()(z, token))
    result = sample(model, 3, config, denoiser=oracle)
    torch.testing.assert_close(result, goal.expand_as(result), rtol=0, atol=2e-2)


def test_device_memory_does_not_grow_with_the_clip(model):
    largest = {}

    def watching(z, t, tokens, motion, reference):
        largest[frames] = max(largest.get(frames, 0), z.numel(), motion.numel())
        return torch.zeros_like(z)

    for frames in (8, 40):
        sample(model, frames, denoiser=watching)
    assert largest[8] == largest[40]


@pytest.mark.parametrize("scheduler", ["ddim", "dpm", "unipc"])
def test_stepping_block_by_block_changes_nothing(model, monkeypatch, scheduler):
    def quick(z, t, tokens, motion, reference):
        return 0.1 * z + motion.mean()

    config = replace(SAMPLER, scheduler=scheduler, steps=4)
    whole = sample(model, 9, config, denoiser=quick)
    monkeypatch.setattr("xnemo.diffusion.sampler.SCHEDULER_BLOCK", 2)
    assert torch.equal(sample(model, 9, config, denoiser=quick), whole)


def test_schedulers_that_scale_their_latents_are_refused(model):
    z, conditions = make_conditions(model, 2)
    generator = torch.Generator()
    with pytest.raises(UserError, match="EulerDiscreteScheduler scales its latents"):
        sample_latents(model[0], z, conditions, EulerDiscreteScheduler(), SAMPLER, generator)


def test_callback_sees_every_step_and_may_replace_latents(model):
    seen = []

    def watch(step, timestep, z):
        seen.append((step, timestep, z.shape[2]))
        return torch.zeros_like(z) if step == 1 else None

    assert not sample(model, 7, on_step=watch).any()
    assert seen == [(0, 501, 7), (1, 1, 7)]


def test_the_scheduler_runs_in_fp32_with_low_precision_networks(model):
    low = copy.deepcopy(model[0]).bfloat16()
    z, conditions = make_conditions(model, 6)
    result = sample_latents(
        low,
        z.bfloat16(),
        conditions,
        make_scheduler(DiffusionConfig()),
        SAMPLER,
        torch.Generator().manual_seed(0),
    )
    assert result.dtype == torch.float32
    exact = sample(model, 6)
    assert (result - exact).std() < 0.15 * exact.std()
