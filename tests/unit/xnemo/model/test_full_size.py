"""The network at its true size, on a machine of 24 GB without a GPU."""

import resource
from dataclasses import asdict

import pytest
import torch

from xnemo.model.config import full
from xnemo.model.unet.denoising_unet import DenoisingUNet
from xnemo.model.weights.initialise import initialise

GB = 1e9


@pytest.mark.slow
@pytest.mark.timeout(1800)
@torch.no_grad()
def test_one_frame_of_512_squared_through_the_denoiser_in_fp32():
    with torch.device("meta"):
        denoiser = DenoisingUNet(**asdict(full().unet)).eval()
    initialise(denoiser, seed=0)
    noise = denoiser(
        torch.randn(1, 4, 1, 64, 64), 500, torch.randn(1, 1, 768), torch.randn(1, 1, 32, 16)
    )
    assert noise.shape == (1, 4, 1, 64, 64)
    assert noise.isfinite().all()
    assert noise.std() > 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"peak memory {peak / GB:.1f} GB")
    assert peak < 20 * GB
