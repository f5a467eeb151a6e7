"""Convolutions with normalised weights: StyleGAN2's modulated one and the spectral one."""

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """Return a context that disables autocast on a tensor's device, where it has autocast."""
    device = like.device.type
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


class ModulatedConv2d(nn.Module):
    """Convolve with a kernel whose input channels are scaled by a style, then renormalise.

    StyleGAN2 (Karras et al. 2020, section 2.2) builds one kernel per sample, `w' = s_i · w_oi`,
    divided by its norm per output channel. Scaling the input by `s` and the output by `1 / ‖w'‖`
    gives the same numbers with one shared kernel, so a batch is one ordinary convolution.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Odd side of the kernel; the resolution is kept.
        style_dim: Width of the style vector.
        demodulate: Divide by the norm of the modulated kernel (off for the layer that makes RGB).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        style_dim: int,
        demodulate: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.to_scale = nn.Linear(style_dim, in_channels)
        nn.init.normal_(self.to_scale.weight, std=1 / math.sqrt(style_dim))
        nn.init.ones_(self.to_scale.bias)
        # Equalised learning rate: the stored kernel has unit variance, the used one is scaled down.
        self.gain = 1 / math.sqrt(in_channels * kernel_size**2)
        self.demodulate = demodulate
        self.padding = kernel_size // 2

    def forward(self, x_BCHW: Tensor, style_BD: Tensor) -> Tensor:
        """Return the (B, out_channels, H, W) result for a (B, style_dim) style."""
        scale_BC = self.to_scale(style_BD)
        weight = self.weight * self.gain
        x = x_BCHW * scale_BC.to(x_BCHW.dtype)[:, :, None, None]
        y = F.conv2d(x, weight.to(x.dtype), padding=self.padding)
        if self.demodulate:
            # Sums of squares exceed the range of fp16 and the precision of bf16: compute in fp32.
            exact = torch.promote_types(weight.dtype, torch.float32)
            with full_precision(x):
                power_OI = weight.to(exact).square().sum(dim=(2, 3))
                norm_BO = torch.rsqrt(scale_BC.to(exact).square() @ power_OI.T + 1e-8)
            y = y * norm_BO.to(y.dtype)[:, :, None, None]
        return y + self.bias.to(y.dtype)[:, None, None]


class SpectralConv2d(nn.Conv2d):
    """A convolution divided by its largest singular value, estimated by one power step per pass.

    The estimate is updated only while the weight is trained, not in the generator's pass through a
    frozen discriminator, so the discriminator's state depends on its own steps alone. The weight
    stays an ordinary parameter of this module, which ZeRO-3 requires to gather it.
    """

    left: Tensor
    right: Tensor

    def __init__(self, *args: int, **kwargs: int) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        matrix = self.weight.detach().flatten(1)
        # On the weight's device, which is "meta" while `from_pretrained` builds.
        left = torch.ones(matrix.shape[0], device=matrix.device, dtype=matrix.dtype)
        # A good first estimate, for a discriminator that is used before it is trained.
        for _ in range(10):
            right = F.normalize(matrix.T @ left, dim=0)
            left = F.normalize(matrix @ right, dim=0)
        self.register_buffer("left", left)
        self.register_buffer("right", right)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the convolution with the normalised weight."""
        # The norm is a running statistic; bf16's 8 bits would make it drift.
        with full_precision(x_BCHW):
            matrix = self.weight.flatten(1).float()
            left, right = self.left.float(), self.right.float()
            if self.training and self.weight.requires_grad and torch.is_grad_enabled():
                with torch.no_grad():
                    right = F.normalize(matrix.T @ left, dim=0)
                    left = F.normalize(matrix @ right, dim=0)
                    self.left.copy_(left)
                    self.right.copy_(right)
            weight = (self.weight.float() / torch.dot(left, matrix @ right)).to(self.weight.dtype)
        return self._conv_forward(x_BCHW, weight, self.bias)
