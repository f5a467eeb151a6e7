"""A denoiser, reference network and inputs small enough to run in milliseconds."""

from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch

from xnemo.model.unet.config import UNetConfig
from xnemo.model.unet.denoising_unet import DenoisingUNet
from xnemo.model.unet.reference_net import ReferenceNet


def wake(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give every parameter noise, so that no branch is silent as zero-initialised ones are."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module


@pytest.fixture
def wake_up():
    return wake


def build(**shape) -> SimpleNamespace:
    config = UNetConfig(
        latent_channels=3,
        heads=2,
        layers=1,
        norm_groups=8,
        module_norm_groups=4,
        image_embedding_width=12,
        motion_width=6,
        max_frames=4,
        **shape,
    )
    torch.manual_seed(0)
    return SimpleNamespace(
        config=config,
        denoiser=wake(DenoisingUNet(**asdict(config)), 1),
        reference_net=wake(ReferenceNet.from_unet_config(config), 2),
        portrait=torch.randn(3, 3, 8, 8),
        noisy=torch.randn(3, 3, 2, 8, 8),
        timestep=torch.tensor([1, 500, 999]),
        tokens=torch.randn(3, 1, 12),
        motion=torch.randn(3, 2, 5, 6),
        present=torch.tensor([True, False, True]),
    )


@pytest.fixture
def little():
    """Both UNets of three levels, awake, with a batch of three samples of two frames."""
    return build(widths=(16, 16, 24), attention=(True, False, True))


@pytest.fixture
def least():
    """The same with one level, for what is slow per block."""
    return build(widths=(16,), attention=(True,))
