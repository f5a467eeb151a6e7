"""The levels of both UNets: Stable Diffusion's, with motion and temporal modules after each layer.

One class serves the denoiser and the reference network; they differ in which modules are there.
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
from xnemo.model.unet.motion_module import MotionModule
from xnemo.model.unet.reference_attention import Presence, ReferenceTokens
from xnemo.model.unet.reference_features import ReferenceFeatures
from xnemo.model.unet.spatial_transformer import SpatialTransformer
from xnemo.model.unet.temporal_module import TemporalModule

# Tokens by name of the transformer block that would read them.
Written = dict[str, Tensor]


@dataclass(frozen=True)
class LevelContext:
    """What all layers of one forward pass share; N is samples × frames."""

    time_NT: Tensor  # noqa: N815
    image_embeddings_NLD: Tensor  # noqa: N815
    motion_NLD: Tensor | None  # noqa: N815
    frames: int
    # What the transformer blocks read, and which samples do; None where nothing is read.
    reference: ReferenceFeatures | None = None
    presence: Presence | None = None
    # Whether the layers return what a reader would read, and the last that does; the pass ends
    # there, because nothing beyond it has a reader.
    writes: bool = False
    last_writer: str | None = None

    def read_by(self, name: str) -> ReferenceTokens | None:
        """Return what the transformer block of that name reads."""
        if self.reference is None:
            return None
        return ReferenceTokens(
            self.reference.by_block[name],
            self.frames,
            self.presence,
            self.reference.cells_by_block.get(name),
        )


class Level(nn.Module):
    """Residual blocks, each followed by what the level has of attention and modules.

    Args:
        name: Name inside the UNet, "down_blocks.0"; reference tokens are looked up by it.
        in_widths: Input channels of each residual block.
        width: Output channels.
        config: The UNet's.
        attention: Whether the level has spatial transformers.
        motion: Whether it has motion modules.
        temporal: Whether it has temporal modules.
        after: How many of the attention, motion and temporal modules; one per residual block,
            except in the middle, where the last residual block stands alone.
    """

    def __init__(
        self,
        name: str,
        in_widths: Sequence[int],
        width: int,
        config: UNetConfig,
        attention: bool,
        motion: bool,
        temporal: bool,
        after: int,
    ) -> None:
        super().__init__()
        self.name = name
        if attention:
            self.attentions = nn.ModuleList(
                SpatialTransformer(
                    width,
                    config.heads,
                    config.norm_groups,
                    config.image_embedding_width,
                    config.use_2d_rope,
                )
                for _ in range(after)
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
        groups = config.module_norm_groups
        if motion:
            self.motion_modules = nn.ModuleList(
                MotionModule(width, config.heads, groups, config.motion_width) for _ in range(after)
            )
        if temporal:
            self.temporal_modules = nn.ModuleList(
                TemporalModule(width, config.heads, groups, config.max_frames) for _ in range(after)
            )
        self.has_motion, self.has_temporal = motion, temporal
        self.transformers = after if attention else 0
        # Switched by ModelMixin.enable_gradient_checkpointing of the UNet.
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func: Callable[..., Any] | None = None

    def block_name(self, index: int) -> str:
        """Return the name of a layer's transformer block inside the UNet."""
        return f"{self.name}.attentions.{index}.transformer_blocks.0"

    def run(self, index: int, x_NCHW: Tensor, context: LevelContext) -> tuple[Tensor, Written]:
        """Run one layer, to be recomputed in the backward pass where checkpointing is on."""
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
                x_NCHW, context.image_embeddings_NLD, context.read_by(name)
            )
            if context.writes:
                written = {name: tokens_NLC}
        if self.has_motion:
            x_NCHW = self.motion_modules[index](x_NCHW, context.motion_NLD)
        if self.has_temporal:
            x_NCHW = self.temporal_modules[index](x_NCHW, context.frames)
        return x_NCHW, written


class DownLevel(Level):
    """A level on the way down; halves the resolution at its end unless it is the last."""

    def __init__(
        self,
        name: str,
        in_width: int,
        width: int,
        config: UNetConfig,
        attention: bool,
        motion: bool,
        temporal: bool,
        downsample: bool,
    ) -> None:
        in_widths = [in_width] + [width] * (config.layers - 1)
        super().__init__(
            name, in_widths, width, config, attention, motion, temporal, after=config.layers
        )
        self.downsamplers = (
            nn.ModuleList([Downsample2D(width, use_conv=True, padding=1, name="op")])
            if downsample
            else None
        )

    def forward(
        self, x_NCHW: Tensor, context: LevelContext
    ) -> tuple[Tensor, list[Tensor], Written]:
        """Return the feature map, the skip connections in order, and what was written."""
        skips: list[Tensor] = []
        written: Written = {}
        for index in range(len(self.resnets)):
            x_NCHW, new = self.run(index, x_NCHW, context)
            written |= new
            skips.append(x_NCHW)
        if self.downsamplers is not None:
            x_NCHW = self.downsamplers[0](x_NCHW)
            skips.append(x_NCHW)
        return x_NCHW, skips, written


class MiddleLevel(Level):
    """The coarsest level: a full layer, then one more residual block."""

    def __init__(
        self, name: str, width: int, config: UNetConfig, motion: bool, temporal: bool
    ) -> None:
        super().__init__(name, [width, width], width, config, True, motion, temporal, after=1)

    def forward(self, x_NCHW: Tensor, context: LevelContext) -> tuple[Tensor, Written]:
        """Return the feature map, and what was written."""
        x_NCHW, written = self.run(0, x_NCHW, context)
        if context.last_writer in written:
            return x_NCHW, written
        return self.resnets[1](x_NCHW, context.time_NT), written


class UpLevel(Level):
    """A level on the way up; doubles the resolution at its end unless it is the last."""

    def __init__(
        self,
        name: str,
        in_width: int,
        skip_widths: Sequence[int],
        width: int,
        config: UNetConfig,
        attention: bool,
        motion: bool,
        temporal: bool,
        upsample: bool,
    ) -> None:
        own_widths = [in_width] + [width] * (len(skip_widths) - 1)
        in_widths = [own + skip for own, skip in zip(own_widths, skip_widths, strict=True)]
        super().__init__(
            name, in_widths, width, config, attention, motion, temporal, after=len(in_widths)
        )
        self.upsamplers = nn.ModuleList([Upsample2D(width, use_conv=True)]) if upsample else None

    def forward(
        self,
        x_NCHW: Tensor,
        skips: Sequence[Tensor],
        context: LevelContext,
        size: tuple[int, int] | None,
    ) -> tuple[Tensor, Written]:
        """Return the feature map, and what was written.

        Args:
            x_NCHW: Features of the level below.
            skips: Skip connections in the order they were made; the last is used first.
            context: What all layers share.
            size: Resolution of the next level, which an odd size makes other than the double.
        """
        written: Written = {}
        for index, skip in enumerate(reversed(skips)):
            x_NCHW, new = self.run(index, torch.cat([x_NCHW, skip], dim=1), context)
            written |= new
            if context.last_writer in written:
                return x_NCHW, written
        if self.upsamplers is not None:
            x_NCHW = self.upsamplers[0](x_NCHW, output_size=size)
        return x_NCHW, written
