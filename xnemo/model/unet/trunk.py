"""The Stable Diffusion 1.x UNet that denoiser and reference network share."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import torch
import torch._dynamo
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn

from xnemo.model.layers.position_embeddings import cell_table
from xnemo.model.layers.strict_model import StrictModelMixin
from xnemo.model.unet.blocks import DownLevel, Level, LevelContext, MiddleLevel, UpLevel, Written
from xnemo.model.unet.config import UNetConfig
from xnemo.model.unet.copy_channels import CopyChannels


class UNetTrunk(StrictModelMixin, ConfigMixin):  # type: ignore[misc]
    """Input convolution, time embedding and all levels, with the official state-dict names."""

    _supports_gradient_checkpointing = True
    # Compiled by compile_repeated_blocks(): each class once, not the network as a whole.
    _repeated_blocks = [  # noqa: RUF012
        "ResnetBlock2D",
        "SpatialTransformer",
        "MotionModule",
        "TemporalModule",
    ]

    def _registered_config(self, **changes: Any) -> UNetConfig:
        """Return the constructor's arguments, which `register_to_config` keeps, as a config."""
        known = {field.name for field in fields(UNetConfig)}
        shape = {name: value for name, value in self.config.items() if name in known}
        for name in ("widths", "attention"):
            # Lists where they were read from JSON.
            shape[name] = tuple(shape[name])
        return UNetConfig(**shape | changes)

    def _build(self, config: UNetConfig, motion: bool) -> None:
        """Create the trunk's modules; called by the constructors of subclasses."""
        widths, levels = config.widths, len(config.widths)
        self.skips_per_level = config.layers + 1
        self.use_2d_rope = config.use_2d_rope
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.time_proj = Timesteps(widths[0], flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(widths[0], 4 * widths[0])

        self.down_blocks = nn.ModuleList()
        skip_widths = [widths[0]]
        for level, width in enumerate(widths):
            last = level == levels - 1
            self.down_blocks.append(
                DownLevel(
                    f"down_blocks.{level}",
                    widths[max(level - 1, 0)],
                    width,
                    config,
                    config.attention[level],
                    motion,
                    downsample=not last,
                )
            )
            skip_widths += [width] * (config.layers + (not last))

        self.up_blocks = nn.ModuleList()
        below = widths[-1]
        for level in reversed(range(levels)):
            self.up_blocks.append(
                UpLevel(
                    f"up_blocks.{levels - 1 - level}",
                    below,
                    [skip_widths.pop() for _ in range(config.layers + 1)],
                    widths[level],
                    config,
                    config.attention[level],
                    motion,
                    upsample=level > 0,
                )
            )
            below = widths[level]

        self.mid_block = MiddleLevel("mid_block", widths[-1], config, motion)

    def compile_repeated_blocks(self, *args: Any, **kwargs: Any) -> None:
        """Compile each block by itself, with the arguments of `torch.compile`.

        Blocks of a class share one cache of compiled code with eight entries by default. A UNet has
        more widths and resolutions than that; without a higher limit the rest would silently stay
        eager.
        """
        blocks = sum(type(module).__name__ in self._repeated_blocks for module in self.modules())
        # Training, inference and the forms of a missing reference are compiled separately.
        limit = max(torch._dynamo.config.recompile_limit, 4 * blocks)
        torch._dynamo.config.recompile_limit = limit
        accumulated = torch._dynamo.config.accumulated_recompile_limit
        torch._dynamo.config.accumulated_recompile_limit = max(accumulated, 8 * limit)
        super().compile_repeated_blocks(*args, **kwargs)

    def layers_in_order(self) -> Iterator[tuple[Level, int]]:
        """Yield every layer, as its level and its index there, in the order of a forward pass."""
        for level in (*self.down_blocks, self.mid_block, *self.up_blocks):
            yield from ((level, index) for index in range(len(level.resnets)))

    def transformer_names(self) -> list[str]:
        """Return the names of all transformer blocks, in the order of a forward pass."""
        return [
            level.block_name(index)
            for level, index in self.layers_in_order()
            if index < level.transformers
        ]

    def _embed_time(self, timestep: Tensor | int, z: Tensor) -> Tensor:
        """Return (B, 4·width) embeddings of one timestep, or of one per sample."""
        timestep_B = torch.as_tensor(timestep, device=z.device).expand(z.shape[0])
        return self.time_embedding(self.time_proj(timestep_B).to(z.dtype))

    def _run(self, z_NChw: Tensor, context: LevelContext) -> tuple[Tensor, Written]:
        """Return the last feature map before the output layers, and the reference tokens."""
        x = self.conv_in(z_NChw)
        if self.use_2d_rope:
            first = CopyChannels(z_NChw.shape[1]).table
            table = cell_table(x.shape[2], x.shape[3], x.shape[1] - first).to(x)
            x = torch.cat([x[:, :first], x[:, first:] + table], dim=1)
        skips, written = [x], Written()
        for down in self.down_blocks:
            x, new_skips, new = down(x, context)
            skips += new_skips
            written |= new
        x, new = self.mid_block(x, context)
        written |= new
        for up in self.up_blocks:
            if context.last_writer in written:
                break
            taken, skips = skips[-self.skips_per_level :], skips[: -self.skips_per_level]
            size = tuple(skips[-1].shape[-2:]) if skips else None
            x, new = up(x, taken, context, size)
            written |= new
        return x, written
