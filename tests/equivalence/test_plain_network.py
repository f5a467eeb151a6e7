"""Networks and sampler against a second, plain implementation.

Masked references, batches of several portraits, other widths, odd sizes, clips of any length.
"""

from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from plain_network import PlainUNet, sample
from torch import Tensor, nn

from xnemo.diffusion.guidance import Conditions
from xnemo.diffusion.initial_latents import frame_noise
from xnemo.diffusion.sampler import SamplerConfig, sample_latents
from xnemo.diffusion.schedule import DiffusionConfig
from xnemo.diffusion.scheduler import make_scheduler
from xnemo.model.unet.config import UNetConfig
from xnemo.model.unet.denoising_unet import DenoisingUNet
from xnemo.model.unet.reference_net import ReferenceNet

REDUCED = {"widths": (32, 64, 128, 128), "norm_groups": 8, "image_embedding_width": 24}
LITTLE = {
    "widths": (32, 64), "attention": (True, False), "layers": 1, "heads": 4, "norm_groups": 8,
    "module_norm_groups": 16, "image_embedding_width": 12, "motion_width": 6,
}  # fmt: skip


def fill(network: nn.Module, seed: int) -> None:
    """Random weights in every branch, with outputs of about the scale of the inputs."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        z = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            parameter.data.copy_(z / parameter[0].numel() ** 0.5)
        else:
            parameter.data.copy_(0.1 * z + float("norm" in name and name.endswith("weight")))


def make(**shape) -> SimpleNamespace:
    """Both UNets, and both again as plain functions over the same tensors."""
    config = UNetConfig(**shape)
    pair = DenoisingUNet(**asdict(config)).eval(), ReferenceNet.from_unet_config(config).eval()
    for seed, network in enumerate(pair):
        fill(network, seed)
    plain = [
        PlainUNet(
            dict(network.state_dict()), config.widths, config.attention, config.layers,
            config.heads, config.norm_groups, config.module_norm_groups,
        )
        for network in pair
    ]  # fmt: skip
    return SimpleNamespace(
        config=config, denoiser=pair[0], reference_net=pair[1], plain=plain[0], writer=plain[1]
    )


def assert_near(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()


@pytest.fixture(scope="module")
def reduced() -> SimpleNamespace:
    return make(**REDUCED)


@pytest.mark.parametrize(("frames", "size"), [(3, (16, 16)), (1, (9, 11)), (2, (17, 23))])
@pytest.mark.parametrize(
    ("drop", "present"),
    [(0.0, None), (0.3, None), (0.4, [True, False]), (0.999, [True, True]), (0.5, [False, False])],
)
@torch.no_grad()
def test_two_portraits_with_masks(reduced, frames, size, drop, present):
    compare(reduced, 2, frames, size, drop, present)


@pytest.mark.parametrize(
    "shape",
    [
        {"widths": (64, 128, 256, 256), "norm_groups": 32, "image_embedding_width": 40},
        {"widths": (32, 96), "attention": (False, True), "layers": 1, "heads": 2,
         "norm_groups": 8, "motion_width": 6, "image_embedding_width": 9},
        {"widths": (32, 32, 64), "attention": (True, True, False), "layers": 3, "heads": 4,
         "norm_groups": 4, "module_norm_groups": 8, "latent_channels": 7,
         "image_embedding_width": 16},
    ],
    ids=["wide", "two levels", "three layers"],
)  # fmt: skip
@torch.no_grad()
def test_other_widths(shape):
    compare(make(**shape), 2, 2, (8, 8), 0.3, [False, True])


@pytest.mark.parametrize("frames", [1, 25, 32])
@torch.no_grad()
def test_clips_of_any_length(frames):
    compare(make(**LITTLE), 1, frames, (6, 6), 0.3, None)


@pytest.mark.parametrize(
    ("frames", "size", "overlap", "together"),
    [(30, 24, 4, 1), (25, 24, 4, 2), (24, 24, 4, 1), (1, 24, 4, 1), (14, 6, 3, 3)],
)
@torch.no_grad()
def test_sampling_with_guidance_over_windows(frames, size, overlap, together):
    nets, draw = make(**LITTLE), torch.Generator().manual_seed(frames)
    z, token = normal(draw, 4, 8, 10), normal(draw, 1, 12)
    motion, negative = normal(draw, frames, 5, 6), normal(draw, 5, 6)
    settings = SamplerConfig(
        steps=3, guidance=2.5, window=size, overlap=overlap, windows_per_batch=together
    )
    reference = nets.reference_net(z[None], token[None])
    found = sample_latents(
        nets.denoiser,
        z[None],
        Conditions(token[None], reference, motion, negative[None]),
        make_scheduler(DiffusionConfig()),
        settings,
        torch.Generator().manual_seed(7),
    )
    # The same draws: noise frame by frame, then an offset a step.
    again = torch.Generator().manual_seed(7)
    noise = frame_noise(frames, (4, 8, 10), again, z)[0]
    offsets = [int(torch.randint(size, (1,), generator=again)) for _ in range(3)]
    bank = nets.writer.write(z[None], token[None])[0]
    expected = sample(
        nets.plain, bank, z, token, motion, negative, noise, offsets, 3, 2.5, size, overlap
    )
    assert_near(found[0], expected)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator)


def compare(nets, samples, frames, size, drop, present) -> None:
    """Compare features and predictions (split batch, key mask) with the plain implementation."""
    c, draw = nets.config, torch.Generator().manual_seed(1)
    portrait = normal(draw, samples, c.latent_channels, *size)
    tokens = normal(draw, samples, 1, c.image_embedding_width)
    noisy = normal(draw, samples, c.latent_channels, frames, *size)
    motion = normal(draw, samples, frames, 5, c.motion_width)
    times = torch.randint(1000, (samples,), generator=draw)
    reference = nets.reference_net(portrait, tokens)
    banks = nets.writer.write(portrait, tokens)
    for name, features in reference.by_block.items():
        assert_near(features, torch.stack([bank[name] for bank in banks]))
    if drop:
        reference = reference.mask_tokens(drop, range(samples))
        for number, bank in enumerate(banks):
            for name, features in bank.items():
                cells = reference.cells_by_block[name][number]
                assert len(set(cells.tolist())) == len(cells) == int(len(features) * (1 - drop))
                bank[name] = features[cells.sort().values]
    if present is not None:
        reference = reference.with_presence(torch.tensor(present))
        banks = [bank if there else None for bank, there in zip(banks, present, strict=True)]
    expected = nets.plain(
        noisy.transpose(1, 2).flatten(0, 1),
        times.repeat_interleave(frames),
        tokens.repeat_interleave(frames, dim=0),
        motion.flatten(0, 1),
        banks,
        frames,
    )
    expected = expected.unflatten(0, (samples, frames)).transpose(1, 2)
    assert_near(nets.denoiser(noisy, times, tokens, motion, reference), expected)
    with torch.enable_grad():
        assert_near(nets.denoiser(noisy, times, tokens, motion, reference).detach(), expected)
