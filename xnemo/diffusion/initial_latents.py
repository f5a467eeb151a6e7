"""Initial latents of sampling: the noised blurred reference, as in the release, or pure noise."""

import torch
import torch.nn.functional as F
from torch import Tensor

BLUR_SIDE = 9
BLUR_SIGMA = 18.0


def blur(z_BChw: Tensor, side: int = BLUR_SIDE, sigma: float = BLUR_SIGMA) -> Tensor:
    """Return latents (B, C, h, w) blurred by a separable Gaussian with reflect padding.

    The release's 9×9 kernel with σ = 18 is nearly a box. Latents smaller than the kernel get the
    largest odd kernel that reflection allows.
    """
    for axis in (-1, -2):
        radius = min(side // 2, z_BChw.shape[axis] - 1)
        x = torch.arange(-radius, radius + 1, dtype=torch.float32, device=z_BChw.device)
        kernel = torch.exp(-0.5 * (x / sigma) ** 2)
        kernel = (kernel / kernel.sum()).to(z_BChw.dtype)
        pad = (radius, radius, 0, 0) if axis == -1 else (0, 0, radius, radius)
        shape = (1, 1, 1, -1) if axis == -1 else (1, 1, -1, 1)
        weight = kernel.view(shape).expand(z_BChw.shape[1], 1, *kernel.view(shape).shape[2:])
        padded = F.pad(z_BChw, pad, mode="reflect")
        z_BChw = F.conv2d(padded, weight, groups=z_BChw.shape[1])
    return z_BChw


def frame_noise(
    frames: int, shape: tuple[int, ...], generator: torch.Generator, like: Tensor
) -> Tensor:
    """Return standard normal noise (1, C, F, h, w), drawn frame by frame on the CPU.

    A frame's noise thus does not depend on the number of frames, nor on the device.
    """
    noise = [torch.randn(shape, generator=generator) for _ in range(frames)]
    return torch.stack(noise, dim=1)[None].to(like)


def initial_latents(
    z_reference_1Chw: Tensor,
    frames: int,
    signal: Tensor | float,
    generator: torch.Generator,
    blurred_reference: bool = True,
) -> Tensor:
    """Return the latents (1, C, F, h, w) that sampling starts from.

    Args:
        z_reference_1Chw: Scaled latents of the reference crop.
        frames: Frames of the clip.
        signal: ᾱ of the first timestep, the remaining fraction of the signal's power.
        generator: CPU generator of the noise.
        blurred_reference: Start from the blurred reference, noised to the first timestep, as the
            release does; it preserves overall colour when the schedule does not reach pure noise.
    """
    noise = frame_noise(frames, tuple(z_reference_1Chw.shape[1:]), generator, z_reference_1Chw)
    if not blurred_reference:
        return noise
    kept = torch.as_tensor(signal, dtype=noise.dtype, device=noise.device)
    return kept.sqrt() * blur(z_reference_1Chw)[:, :, None] + (1 - kept).sqrt() * noise
