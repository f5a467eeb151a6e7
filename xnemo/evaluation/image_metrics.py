"""Pixel metrics of two images: L1, PSNR and SSIM."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Wang et al. 2004: a Gaussian window of 11 pixels, and constants for a range of one.
_SIGMA, _RADIUS = 1.5, 5
_C1, _C2 = 0.01**2, 0.03**2


def l1(a_NCHW: Tensor, b_NCHW: Tensor) -> Tensor:
    """Return the mean absolute difference of each image (N,), for images in [-1, 1].

    The unit is the full range of a channel: 0 for equal images, 1 for black against white.
    """
    return (a_NCHW.float() - b_NCHW.float()).abs().flatten(1).mean(1) / 2


def psnr(a_NCHW: Tensor, b_NCHW: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each image (N,) in dB, for images in [-1, 1].

    Equal images give infinity.
    """
    error = ((a_NCHW.float() - b_NCHW.float()) / 2).square().flatten(1).mean(1)
    return -10 * torch.log10(error)


def ssim(a_NCHW: Tensor, b_NCHW: Tensor) -> Tensor:
    """Return the structural similarity of each image (N,), for images in [-1, 1].

    Per channel, with a Gaussian window of standard deviation 1.5, population covariances and
    without the border of five pixels, as `skimage.metrics.structural_similarity` with
    ``gaussian_weights=True, use_sample_covariance=False``.

    Raises:
        ValueError: A side is below 11 pixels.
    """
    if min(a_NCHW.shape[-2:]) < 2 * _RADIUS + 1:
        raise ValueError(f"images of {tuple(a_NCHW.shape[-2:])} are smaller than SSIM's window")
    a, b = ((x.double() + 1) / 2 for x in (a_NCHW, b_NCHW))
    mean_a, mean_b = _blur(a), _blur(b)
    var_a = _blur(a * a) - mean_a**2
    var_b = _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    top = (2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)
    bottom = (mean_a**2 + mean_b**2 + _C1) * (var_a + var_b + _C2)
    return (top / bottom).flatten(1).mean(1).float()


def _blur(x_NCHW: Tensor) -> Tensor:
    """Apply a Gaussian filter where the whole window lies inside the image."""
    steps = torch.arange(-_RADIUS, _RADIUS + 1, dtype=x_NCHW.dtype, device=x_NCHW.device)
    window = torch.exp(-0.5 * (steps / _SIGMA) ** 2)
    window = window / window.sum()
    channels = x_NCHW.shape[1]
    for shape in ((1, 1, -1, 1), (1, 1, 1, -1)):
        kernel = window.view(shape).expand(channels, 1, *window.view(shape).shape[2:])
        x_NCHW = F.conv2d(x_NCHW, kernel, groups=channels)
    return x_NCHW


def mean_finite(values: Tensor) -> float:
    """Return the mean of the finite values, NaN where there is none."""
    finite = values[torch.isfinite(values)]
    return float(finite.mean()) if finite.numel() else math.nan
