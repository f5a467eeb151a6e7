"""Reference copy initialisation of UNets that have no pretrained weights."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from xnemo.model.layers.rotary_embedding import rope_frequencies
from xnemo.model.unet.copy_channels import CopyChannels
from xnemo.model.unet.denoising_unet import DenoisingUNet
from xnemo.model.unet.motion_module import MotionModule
from xnemo.model.unet.reference_net import ReferenceNet
from xnemo.model.unet.spatial_transformer import SpatialBlock, SpatialTransformer
from xnemo.model.unet.trunk import UNetTrunk

# Scale of queries and keys. Attention is then a few cells wide on a 16×16 grid; half that width
# copies more sharply, but motion took three times as many samples to learn.
_SHARPNESS = math.sqrt(6.0)
# Preference of reference cells over the frame's own, noisy ones.
_REFERENCE = 1.0
# Gain of the norm before self-attention, relative to the constant channels: content must not
# outweigh position. Motion passes the same gain; half of it delays learning motion.
_CONTENT = 0.4
# Offset, in image sides, per unit of a shift channel after the norm.
_SHIFT = 1.0
# Standard deviation of the motion modules' initial output weights onto the shift channels.
_MOTION_STD = 0.03
# Offset at which features pass the output's SiLU nearly unchanged.
_OFFSET = 2.0


@torch.no_grad()
def init_reference_copy(denoiser: DenoisingUNet, reference_net: ReferenceNet, seed: int) -> None:
    """Initialise two UNets so that the denoiser outputs the reference and motion can shift it.

    From random weights a denoiser needs thousands of samples before its attention reproduces the
    portrait, and until then motion has no useful gradient. Here residual blocks start at zero and
    convolutions as the identity, every self-attention fetches the latents at its cell's position in
    the reference, and two channels offset that position. All weights remain trainable. Not
    published; chosen because networks without pretrained weights then learn in a short run.

    Args:
        denoiser: With `use_2d_rope`; its weights are replaced.
        reference_net: The same.
        seed: Of the images that calibrate the output, and of the motion modules' output weights.
    """
    channels = CopyChannels(denoiser.conv_in.in_channels)
    for unet in (denoiser, reference_net):
        _pass_through(unet, channels.fetched)
        for module in unet.modules():
            if isinstance(module, SpatialTransformer):
                _fetch(module, channels, unet is reference_net)
    generator = torch.Generator("cpu").manual_seed(seed)
    for module in denoiser.modules():
        if isinstance(module, MotionModule):
            last = module.temporal_transformer.proj_out.weight[channels.shift]
            last.copy_(_MOTION_STD * torch.randn(last.shape, generator=generator))
    _read_output(denoiser, channels)
    _calibrate(denoiser, reference_net, generator)


def reconstruct_reference(
    denoiser: DenoisingUNet, reference_net: ReferenceNet, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return smooth random latents (4, C, 16, 16) and the output with them as the reference."""
    coarse = torch.randn(4, denoiser.conv_in.in_channels, 4, 4, generator=generator)
    z = F.interpolate(coarse, size=(16, 16), mode="bicubic", align_corners=False)
    noise = torch.randn(z.shape, generator=generator)
    config: Any = denoiser.config
    image_embedding = torch.zeros(len(z), 1, config.image_embedding_width)
    motion = torch.zeros(len(z), 1, 1, config.motion_width)
    reference = reference_net(z, image_embedding)
    return z, denoiser(noise[:, :, None], 999, image_embedding, motion, reference)[:, :, 0]


def _pass_through(unet: UNetTrunk, fetched: slice) -> None:
    """Pass features through all levels unchanged, except the fetched channels."""
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
                # The mean of the four cells that are merged.
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
            # The mean of the level below and the skip connection.
            skip = torch.eye(shortcut.out_channels, shortcut.in_channels - below)
            shortcut.weight[:, below:] = skip[:, :, None, None]
            shortcut.weight /= 2
            shortcut.weight[fetched] = 0
            below = resnet.out_channels


def _fetch(transformer: SpatialTransformer, channels: CopyChannels, writes: bool) -> None:
    """Make self-attention copy latents from the position given by the shift channels."""
    own, fetched = channels.own, channels.fetched
    block = transformer.transformer_blocks[0]
    assert isinstance(block, SpatialBlock)
    attention: Any = block.attn1
    width, heads = len(attention.to_q.weight), attention.heads
    _identity(transformer.proj_in)
    _identity(transformer.proj_out)
    # Only the fetched channels are added to the feature map.
    kept = torch.zeros(width, 1, 1, 1)
    kept[fetched] = 1
    transformer.proj_out.weight *= kept
    nn.init.constant_(block.norm1.weight, _CONTENT)
    nn.init.zeros_(block.norm1.bias)
    block.norm1.bias[channels.here] = 1
    if writes:
        block.norm1.bias[channels.reference] = 1

    radians = 2 * math.pi * rope_frequencies(width // heads).float()
    # Channel pairs (first, second) of a head: the first ones are constant, and a second one in
    # proportion to its pair's rotation over a distance makes the query match at that distance.
    here = torch.cat([torch.ones(2 * len(radians)), torch.zeros(2 * len(radians))]).repeat(heads)
    none = torch.zeros_like(radians)
    down, right = (
        torch.cat([none, none, *pair]).repeat(heads) for pair in ((radians, none), (none, radians))
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


def _read_output(denoiser: DenoisingUNet, channels: CopyChannels) -> None:
    """Output the fetched channels, through the output's norm and SiLU."""
    bias: Any = denoiser.conv_norm_out.bias
    bias[channels.fetched] = _OFFSET
    nn.init.zeros_(denoiser.conv_out.weight)
    middle = denoiser.conv_out.weight[:, channels.fetched, 1, 1]
    middle.copy_(torch.eye(channels.latent_channels))


def _calibrate(
    denoiser: DenoisingUNet, reference_net: ReferenceNet, generator: torch.Generator
) -> None:
    """Rescale the output to the latents, undoing the effect of the norms on the way."""
    z, out = reconstruct_reference(denoiser, reference_net, generator)
    deviation = z - z.mean()
    gain = float((deviation * out).sum() / deviation.square().sum())
    denoiser.conv_out.weight /= gain
    bias: Any = denoiser.conv_out.bias
    nn.init.constant_(bias, float(z.mean() - out.mean() / gain))


def _identity(layer: Any) -> None:
    """Make a convolution the identity on the channels that input and output share."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    middle = layer.weight[:, :, layer.weight.shape[2] // 2, layer.weight.shape[3] // 2]
    middle.copy_(torch.eye(*middle.shape))
