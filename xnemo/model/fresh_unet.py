"""Where a UNet begins that starts from no weights at all."""

from collections.abc import Collection
from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from xnemo.model.spatial_transformer import SpatialBlock

# Scale of queries and keys: a token of 32 channels a head then finds its equal among hundreds.
_SHARPNESS = 1.4


@torch.no_grad()
def calm_fresh_layers(unet: nn.Module, fresh: Collection[str]) -> None:
    """Set residual blocks to pass their input on, and self-attention to look at what is alike.

    A residual block whose last convolution is zero is the identity (Goyal et al. 2017 begin their
    networks so), which lets pictures through the depth of the network from the first step. Equal
    queries and keys let a cell find itself in the reference, whose features are made alike; plain
    values hand over what is found.

    Args:
        unet: a denoiser or a reference network.
        fresh: names of the layers that were just initialised; others have been loaded and stay.
    """
    for name, module in unet.named_modules():
        if isinstance(module, ResnetBlock2D) and f"{name}.conv2" in fresh:
            last: Any = module.conv2
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        if isinstance(module, SpatialBlock):
            attention: Any = module.attn1
            layers = {
                "to_q": (attention.to_q, _SHARPNESS),
                "to_k": (attention.to_k, _SHARPNESS),
                "to_v": (attention.to_v, 1.0),
                "to_out.0": (attention.to_out[0], 1.0),
            }
            for layer_name, (layer, scale) in layers.items():
                if f"{name}.attn1.{layer_name}" in fresh:
                    layer.weight.copy_(scale * torch.eye(len(layer.weight)))
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)
