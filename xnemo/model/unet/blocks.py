"""Levels of both UNets: Stable Diffusion's, with motion and temporal modules after each layer.

The same classes serve denoiser and reference network, which differ in the modules they have.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from xnemo.model.unet.config import UNetConfig
from xnemo.model.unet.motion_module import MotionModule, TemporalModule
from xnemo.model.unet.reference_attention import Presence, ReferenceTokens
from xnemo.model.unet.reference_features import ReferenceFeatures
from xnemo.model.unet.spatial_transformer import SpatialTransformer

# Reference tokens by name of the transformer block that wrote them.
Written = dict[str, Tensor]


@dataclass(frozen=True)
class LevelContext:
    """Inputs that all layers of one forward pass share; N is samples × frames."""

    time_NT: Tensor  # noqa: N815
    image_embeddings_NLD: Tensor  # noqa: N815
    motion_NLD: Tensor | None  # noqa: N815
    frames: int
    # Reference features to read, and which samples have them; None where nothing is read.
    reference: ReferenceFeatures | None = None
    presence: Presence | None = None
    # Whether layers return reference tokens, and the last block that does; the pass ends there.
    writes: bool = False
    last_writer: str | None = None

    def reference_tokens(self, name: str) -> ReferenceTokens | None:
        """Return the reference tokens of the transformer block `name`."""
        if self.reference is None:
            return None
        return ReferenceTokens(
            self.reference.by_block[name],
            self.frames,
            self.presence,
            self.reference.cells_by_block.get(name),
        )


class Level(nn.Module):
    """Residual blocks, each followed by the attention and the modules of the level.

    Args:
        name: Name inside the UNet, such as "down_blocks.0"; prefix of its transformer blocks.
        in_widths: Input channels of each residual block.
        width: Output channels.
        config: The UNet's.
        attention: Whether the level has spatial transformers.
        motion: Whether it has motion modules and, where the config says so, temporal modules.
        layers: Number of attention, motion and temporal modules each; one per residual block,
            except in the middle, whose last residual block has none.
    """

    def __init__(
        self,
        name: str,
        in_widths: Sequence[int],
        width: int,
        config: UNetConfig,
        attention: bool,
        motion: bool,
        layers: int,
    ) -> None:
        super().__init__()
        self.name = name
        heads, groups = config.heads, config.module_norm_groups
        if attention:
            self.attentions = nn.ModuleList(
                SpatialTransformer(
                    width,
                    heads,
                    config.norm_groups,
                    config.image_embedding_width,
                    config.use_2d_rope,
                )
                for _ in range(layers)
            )
        self.resnets = nn.ModuleList(
            ResnetBlock2D(
                in_channels=in_width,
                out_channels=width,
                temb_channels=4 * config.widths[0],
                groups=config.norm_groups,
                eps=1e-5,
            )
            for in_width in in_widths
        )
        self.has_motion, self.has_temporal = motion, motion and config.temporal
        if self.has_motion:
            self.motion_modules = nn.ModuleList(
                MotionModule(width, heads, groups, config.motion_width) for _ in range(layers)
            )
        if self.has_temporal:
            self.temporal_modules = nn.ModuleList(
                TemporalModule(width, heads, groups, config.max_frames) for _ in range(layers)
            )
        self.transformers = layers if attention else 0
        # Set by ModelMixin.enable_gradient_checkpointing of the UNet.
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func: Callable[..., Any] | None = None

    def block_name(self, index: int) -> str:
        """Return the name of a layer's transformer block inside the UNet."""
        return f"{self.name}.attentions.{index}.transformer_blocks.0"

    def run_layer(
        self, index: int, x_NCHW: Tensor, context: LevelContext
    ) -> tuple[Tensor, Written]:
        """Run one layer, recomputed in the backward pass under gradient checkpointing."""
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            assert self._gradient_checkpointing_func is not None
            return self._gradient_checkpointing_func(self._layer, index, x_NCHW, context)
        return self._layer(index, x_NCHW, context)

    def _layer(self, index: int, x_NCHW: Tensor, context: LevelContext) -> tuple[Tensor, Written]:
        x_NCHW = self.resnets[index](x_NCHW, context.time_NT)
        written: Written = {}
        if index < self.transformers:
            name = self.block_name(index)
            attention = cast(SpatialTransformer, self.attentions[index])
            if name == context.last_writer:
                return x_NCHW, {name: attention.write_only(x_NCHW)}
            x_NCHW, tokens_NLC = attention(
                x_NCHW, context.image_embeddings_NLD, context.reference_tokens(name)
            )
            if context.writes:
                written = {name: tokens_NLC}
        if self.has_motion:
            x_NCHW = self.motion_modules[index](x_NCHW, context.motion_NLD)
        if self.has_temporal:
            x_NCHW = self.temporal_modules[index](x_NCHW, context.frames)
        return x_NCHW, written


class DownLevel(Level):
    """A level of the encoder; halves the resolution at its end unless it is the last."""

    def __init__(
        self,
        name: str,
        in_width: int,
        width: int,
        config: UNetConfig,
        attention: bool,
        motion: bool,
        downsample: bool,
    ) -> None:
        in_widths = [in_width] + [width] * (config.layers - 1)
        super().__init__(name, in_widths, width, config, attention, motion, config.layers)
        self.downsamplers = (
            nn.ModuleList([Downsample2D(width, use_conv=True, padding=1, name="op")])
            if downsample
            else None
        )

    def forward(
        self, x_NCHW: Tensor, context: LevelContext
    ) -> tuple[Tensor, list[Tensor], Written]:
        """Return the feature map, the skip connections in order, and the reference tokens."""
        skips: list[Tensor] = []
        written: Written = {}
        for index in range(len(self.resnets)):
            x_NCHW, new = self.run_layer(index, x_NCHW, context)
            written |= new
            skips.append(x_NCHW)
        if self.downsamplers is not None:
            x_NCHW = self.downsamplers[0](x_NCHW)
            skips.append(x_NCHW)
        return x_NCHW, skips, written


class MiddleLevel(Level):
    """The coarsest level: a full layer, then one more residual block."""

    def __init__(self, name: str, width: int, config: UNetConfig, motion: bool) -> None:
        super().__init__(name, [width, width], width, config, True, motion, layers=1)

    def forward(self, x_NCHW: Tensor, context: LevelContext) -> tuple[Tensor, Written]:
        """Return the feature map and the reference tokens."""
        x_NCHW, written = self.run_layer(0, x_NCHW, context)
        if context.last_writer in written:
            return x_NCHW, written
        return self.resnets[1](x_NCHW, context.time_NT), written


class UpLevel(Level):
    """A level of the decoder; doubles the resolution at its end unless it is the last."""

    def __init__(
        self,
        name: str,
        in_width: int,
        skip_widths: Sequence[int],
        width: int,
        config: UNetConfig,
        attention: bool,
        motion: bool,
        upsample: bool,
    ) -> None:
        own_widths = [in_width] + [width] * (len(skip_widths) - 1)
        in_widths = [own + skip for own, skip in zip(own_widths, skip_widths, strict=True)]
        super().__init__(name, in_widths, width, config, attention, motion, len(in_widths))
        self.upsamplers = nn.ModuleList([Upsample2D(width, use_conv=True)]) if upsample else None

    def forward(
        self,
        x_NCHW: Tensor,
        skips: Sequence[Tensor],
        context: LevelContext,
        size: tuple[int, int] | None,
    ) -> tuple[Tensor, Written]:
        """Return the feature map and the reference tokens.

        Args:
            x_NCHW: Features of the level below.
            skips: Skip connections in encoder order; the last is used first.
            context: Inputs that all layers share.
            size: Resolution of the next level, not exactly the double where it is odd.
        """
        written: Written = {}
        for index, skip in enumerate(reversed(skips)):
            x_NCHW, new = self.run_layer(index, torch.cat([x_NCHW, skip], dim=1), context)
            written |= new
            if context.last_writer in written:
                return x_NCHW, written
        if self.upsamplers is not None:
            x_NCHW = self.upsamplers[0](x_NCHW, output_size=size)
        return x_NCHW, written
