"""Where UNets begin that start from no weights at all: by copying the reference."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from xnemo.model.layers.rotary_embedding import turns_per_picture
from xnemo.model.unet.copy_channels import CopierChannels
from xnemo.model.unet.denoising_unet import DenoisingUNet
from xnemo.model.unet.motion_module import MotionModule
from xnemo.model.unet.reference_net import ReferenceNet
from xnemo.model.unet.spatial_transformer import SpatialBlock, SpatialTransformer
from xnemo.model.unet.trunk import UNetTrunk

# Size of queries and keys. Attention is then a few cells wide on a 16×16 grid: twice as narrow
# copies more sharply, and motion was learnt in three times as many samples.
_SHARPNESS = math.sqrt(6.0)
# How much more the reference's cells are looked for than the frame's own, noisy ones.
_REFERENCE = 1.0
# Gain of the norm before self-attention, against the constants beside it: what a cell holds must
# not outvote where it lies. Motion arrives through the same gain: at half of this it comes late.
_CONTENT = 0.4
# Shift in pictures that one unit of a shift channel after the norm stands for.
_SHIFT = 1.0
# Deviation of the motion modules' output onto the shift channels.
_AWAKE = 0.03
# A feature lifted this far passes the output's SiLU nearly unchanged.
_LIFT = 2.0


@torch.no_grad()
def init_reference_copy(denoiser: DenoisingUNet, reference_net: ReferenceNet, seed: int) -> None:
    """Set two fresh UNets so that the denoiser gives out the reference, and motion moves it.

    From random weights a denoiser needs thousands of samples before it repeats the portrait through
    its attention, and only a repeated portrait can be moved: until then motion has no gradient. So
    residual blocks begin as nothing, convolutions as the identity, every self-attention fetches the
    latents that lie at its cell's place in the reference, and two channels say how far beside it.
    All weights stay free to leave this.

    Args:
        denoiser: with `use_2d_rope`, and fresh weights that this replaces.
        reference_net: the same.
        seed: of the pictures by which the output is calibrated, and of the motion modules' waking.
    """
    channels = CopierChannels(denoiser.conv_in.in_channels)
    for unet in (denoiser, reference_net):
        _pass_on(unet, channels.fetched)
        for module in unet.modules():
            if isinstance(module, SpatialTransformer):
                _fetch(module, channels, unet is reference_net)
    generator = torch.Generator("cpu").manual_seed(seed)
    for module in denoiser.modules():
        if isinstance(module, MotionModule):
            last = module.temporal_transformer.proj_out.weight[channels.shift]
            last.copy_(_AWAKE * torch.randn(last.shape, generator=generator))
    _give_out(denoiser, channels)
    _calibrate(denoiser, reference_net, generator)


def copied(
    denoiser: DenoisingUNet, reference_net: ReferenceNet, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return smooth random latents (4, C, 16, 16), and what is made of them as a reference."""
    coarse = torch.randn(4, denoiser.conv_in.in_channels, 4, 4, generator=generator)
    z = F.interpolate(coarse, size=(16, 16), mode="bicubic", align_corners=False)
    noise = torch.randn(z.shape, generator=generator)
    config: Any = denoiser.config
    image_embedding = torch.zeros(len(z), 1, config.image_embedding_width)
    motion = torch.zeros(len(z), 1, 1, config.motion_width)
    reference = reference_net(z, image_embedding)
    return z, denoiser(noise[:, :, None], 999, image_embedding, motion, reference)[:, :, 0]


def _pass_on(unet: UNetTrunk, fetched: slice) -> None:
    """Hand features through all levels unchanged, but for what was fetched on the way."""
    _identity(unet.conv_in)
    for module in unet.modules():
        if isinstance(module, ResnetBlock2D):
            last: Any = module.conv2
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        elif isinstance(module, Downsample2D | Upsample2D):
            layer: Any = module.conv
            _identity(layer)
            if isinstance(module, Downsample2D):
                # The mean of the four cells that become one.
                layer.weight[:, :, 1:, 1:] = layer.weight[:, :, 1:2, 1:2] / 4
            layer.weight[fetched] = 0
    levels: Any = unet
    for level in levels.down_blocks:
        for resnet in level.resnets:
            if resnet.conv_shortcut is not None:
                _identity(resnet.conv_shortcut)
                resnet.conv_shortcut.weight[fetched] = 0
    below = levels.mid_block.resnets[0].in_channels
    for level in levels.up_blocks:
        for resnet in level.resnets:
            shortcut = resnet.conv_shortcut
            _identity(shortcut)
            # The mean of what comes from below and of the skip connection.
            skip = torch.eye(shortcut.out_channels, shortcut.in_channels - below)
            shortcut.weight[:, below:] = skip[:, :, None, None]
            shortcut.weight /= 2
            shortcut.weight[fetched] = 0
            below = resnet.out_channels


def _fetch(transformer: SpatialTransformer, channels: CopierChannels, writes: bool) -> None:
    """Let the self-attention copy latents from the place that the shift channels say."""
    own, fetched = channels.own, channels.fetched
    block = transformer.transformer_blocks[0]
    assert isinstance(block, SpatialBlock)
    attention: Any = block.attn1
    width, heads = len(attention.to_q.weight), attention.heads
    _identity(transformer.proj_in)
    _identity(transformer.proj_out)
    # Nothing but what was fetched is added to the feature map.
    kept = torch.zeros(width, 1, 1, 1)
    kept[fetched] = 1
    transformer.proj_out.weight *= kept
    nn.init.constant_(block.norm1.weight, _CONTENT)
    nn.init.zeros_(block.norm1.bias)
    block.norm1.bias[channels.here] = 1
    if writes:
        block.norm1.bias[channels.reference] = 1

    turns = 2 * math.pi * turns_per_picture(width // heads).float()
    # Pairs of channels of a head, (first, second): all first ones are told "here", and a second one
    # that follows by as much as its pair turns over a distance asks for what lies there.
    here = torch.cat([torch.ones(2 * len(turns)), torch.zeros(2 * len(turns))]).repeat(heads)
    none = torch.zeros_like(turns)
    down, right = (
        torch.cat([none, none, *pair]).repeat(heads) for pair in ((turns, none), (none, turns))
    )
    for layer in (attention.to_q, attention.to_k):
        nn.init.zeros_(layer.weight)
        layer.weight[:, channels.here] = _SHARPNESS * here
    attention.to_k.weight[:, channels.reference] = _SHARPNESS * _REFERENCE * here
    shift = torch.stack([down, right], dim=1)
    attention.to_q.weight[:, channels.shift] = _SHARPNESS * _SHIFT * shift
    attention.to_v.weight.copy_(torch.eye(width) / _CONTENT)
    nn.init.zeros_(attention.to_out[0].weight)
    attention.to_out[0].weight[fetched, own] = torch.eye(channels.latent_channels)
    nn.init.zeros_(attention.to_out[0].bias)
    others: Any = (block.attn2.to_out[0], block.ff.net[2])
    for layer in others:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def _give_out(denoiser: DenoisingUNet, channels: CopierChannels) -> None:
    """Read what was fetched, past the output's norm and SiLU."""
    lifted: Any = denoiser.conv_norm_out.bias
    lifted[channels.fetched] = _LIFT
    nn.init.zeros_(denoiser.conv_out.weight)
    middle = denoiser.conv_out.weight[:, channels.fetched, 1, 1]
    middle.copy_(torch.eye(channels.latent_channels))


def _calibrate(
    denoiser: DenoisingUNet, reference_net: ReferenceNet, generator: torch.Generator
) -> None:
    """Bring the output to the size of latents: norms on the way have changed it."""
    z, out = copied(denoiser, reference_net, generator)
    deviation = z - z.mean()
    gain = float((deviation * out).sum() / deviation.square().sum())
    denoiser.conv_out.weight /= gain
    bias: Any = denoiser.conv_out.bias
    nn.init.constant_(bias, float(z.mean() - out.mean() / gain))


def _identity(layer: Any) -> None:
    """Let a convolution hand on the channels that both sides have, cell by cell."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    middle = layer.weight[:, :, layer.weight.shape[2] // 2, layer.weight.shape[3] // 2]
    middle.copy_(torch.eye(*middle.shape))
