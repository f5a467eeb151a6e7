"""Style-modulated convolution of StyleGAN2, without a kernel per sample."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xnemo.model.layers.full_precision import full_precision


class ModulatedConv2d(nn.Module):
    """Convolve with a kernel whose input channels are scaled by a style, then renormalise.

    StyleGAN2 (Karras et al. 2020, section 2.2) builds one kernel per sample, `w' = s_i · w_oi`,
    divided by its norm per output channel. Scaling the input by `s` and the output by `1 / ‖w'‖`
    gives the same numbers with one shared kernel, so a batch is one ordinary convolution.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Odd side of the kernel; the size of the picture is kept.
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
            # Sums of squares leave the range of fp16 and the precision of bf16: keep them in fp32.
            exact = torch.promote_types(weight.dtype, torch.float32)
            with full_precision(x):
                power_OI = weight.to(exact).square().sum(dim=(2, 3))
                norm_BO = torch.rsqrt(scale_BC.to(exact).square() @ power_OI.T + 1e-8)
            y = y * norm_BO.to(y.dtype)[:, :, None, None]
        return y + self.bias.to(y.dtype)[:, None, None]
