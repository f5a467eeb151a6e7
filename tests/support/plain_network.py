"""The two UNets and the sampler once more, as plain functions over a state dict.

Written from the description of the method alone, with nothing of the project or of diffusers: sums,
loops and matrix products, one frame after the other, no batching of branches. Slow, and easy to
hold against the paper.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Reference tokens of one sample by the name of the block that reads them.
Bank = dict[str, Tensor]


class PlainUNet:
    """A UNet as its tensors and its shape; with motion and temporal modules or without."""

    def __init__(self, tensors, widths, attention, layers, heads, groups, module_groups) -> None:
        self.tensors, self.widths, self.attention = tensors, widths, attention
        self.layers, self.heads = layers, heads
        self.groups, self.module_groups = groups, module_groups

    def __call__(self, z, timesteps, image_embedding, motion=None, banks=None, frames=1) -> Tensor:
        """Return noise (N, C, h, w) of N = samples × `frames` latents.

        `banks` has an entry for each sample, which may be None; `motion` is (N, L, D).
        """
        x, _ = self._run(z, timesteps, image_embedding, motion, banks, frames)
        x = F.silu(self._group_norm("conv_norm_out", x, self.groups, 1e-5))
        return self._conv("conv_out", x, padding=1)

    def write(self, z, image_embedding) -> list[Bank]:
        """Return the bank of each sample, from clean latents at timestep 0."""
        _, written = self._run(z, torch.zeros(len(z)), image_embedding, None, None, 1)
        return [{name: tokens[i] for name, tokens in written.items()} for i in range(len(z))]

    def _run(self, z, timesteps, image_embedding, motion, banks, frames):
        half = self.widths[0] // 2
        rates = torch.exp(-math.log(10000.0) * torch.arange(half) / half)
        angles = timesteps[:, None].float() * rates
        time = torch.cat([angles.cos(), angles.sin()], dim=1)
        time = F.silu(self._linear("time_embedding.linear_1", time))
        time = self._linear("time_embedding.linear_2", time)
        written: dict[str, Tensor] = {}

        def layer(level, index, x, attends):
            x = self._residual(f"{level}.resnets.{index}", x, time)
            if attends:
                name = f"{level}.attentions.{index}"
                x = self._spatial(name, x, image_embedding, banks, frames, written)
            if motion is not None:
                x = self._module(f"{level}.motion_modules.{index}", x, motion=motion)
                x = self._module(f"{level}.temporal_modules.{index}", x, frames=frames)
            return x

        levels = len(self.widths)
        x = self._conv("conv_in", z, padding=1)
        skips = [x]
        for level in range(levels):
            for index in range(self.layers):
                x = layer(f"down_blocks.{level}", index, x, self.attention[level])
                skips.append(x)
            if level < levels - 1:
                name = f"down_blocks.{level}.downsamplers.0.conv"
                x = self._conv(name, x, stride=2, padding=1)
                skips.append(x)
        x = layer("mid_block", 0, x, True)
        x = self._residual("mid_block.resnets.1", x, time)
        for level in range(levels):
            for index in range(self.layers + 1):
                x = torch.cat([x, skips.pop()], dim=1)
                x = layer(f"up_blocks.{level}", index, x, self.attention[levels - 1 - level])
            if level < levels - 1:
                x = F.interpolate(x, size=skips[-1].shape[-2:], mode="nearest")
                x = self._conv(f"up_blocks.{level}.upsamplers.0.conv", x, padding=1)
        return x, written

    def _spatial(self, name, x, image_embedding, banks, frames, written):
        n, c, h, w = x.shape
        tokens = self._conv(f"{name}.proj_in", self._group_norm(f"{name}.norm", x, self.groups))
        tokens = tokens.reshape(n, c, h * w).transpose(1, 2)
        block = f"{name}.transformer_blocks.0"
        normed = written[block] = self._layer_norm(f"{block}.norm1", tokens)
        attended = []
        for i, own in enumerate(normed):
            bank = banks[i // frames] if banks else None
            keys = own if bank is None else torch.cat([own, bank[block]])
            attended.append(self._attend(f"{block}.attn1", own, keys))
        tokens = torch.stack(attended) + tokens
        queries = self._layer_norm(f"{block}.norm2", tokens)
        tokens = self._attend(f"{block}.attn2", queries, image_embedding) + tokens
        tokens = self._widen(f"{block}.ff", self._layer_norm(f"{block}.norm3", tokens)) + tokens
        return self._conv(f"{name}.proj_out", tokens.transpose(1, 2).reshape(n, c, h, w)) + x

    def _module(self, name, x, motion=None, frames=None):
        """A motion module where `motion` is given, else a temporal one over `frames`."""
        n, c, h, w = x.shape
        name += ".temporal_transformer"
        tokens = self._group_norm(f"{name}.norm", x, self.module_groups)
        tokens = self._linear(f"{name}.proj_in", tokens.reshape(n, c, h * w).transpose(1, 2))
        if frames:
            tokens = tokens.reshape(-1, frames, h * w, c).transpose(1, 2)
        block = f"{name}.transformer_blocks.0"
        for k in range(2):
            normed = self._layer_norm(f"{block}.norms.{k}", tokens)
            if frames:
                normed = normed + _frame_positions(frames, c)
            keys = normed if frames else motion
            tokens = self._attend(f"{block}.attention_blocks.{k}", normed, keys) + tokens
        tokens = self._widen(f"{block}.ff", self._layer_norm(f"{block}.ff_norm", tokens)) + tokens
        tokens = self._linear(f"{name}.proj_out", tokens)
        if frames:
            tokens = tokens.transpose(1, 2).reshape(n, h * w, c)
        return tokens.transpose(1, 2).reshape(n, c, h, w) + x

    def _residual(self, name, x, time):
        h = F.silu(self._group_norm(f"{name}.norm1", x, self.groups, 1e-5))
        h = self._conv(f"{name}.conv1", h, padding=1)
        h = h + self._linear(f"{name}.time_emb_proj", F.silu(time))[:, :, None, None]
        h = F.silu(self._group_norm(f"{name}.norm2", h, self.groups, 1e-5))
        h = self._conv(f"{name}.conv2", h, padding=1)
        if f"{name}.conv_shortcut.weight" in self.tensors:
            x = self._conv(f"{name}.conv_shortcut", x)
        return x + h

    def _attend(self, name, queries, keys):
        q, k, v = (
            self._linear(f"{name}.to_{letter}", x).unflatten(-1, (self.heads, -1)).transpose(-2, -3)
            for letter, x in (("q", queries), ("k", keys), ("v", keys))
        )
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(dim=-1)
        return self._linear(f"{name}.to_out.0", (weights @ v).transpose(-2, -3).flatten(-2))

    def _widen(self, name, x):
        value, gate = self._linear(f"{name}.net.0.proj", x).chunk(2, dim=-1)
        gelu = gate * (1 + torch.erf(gate / math.sqrt(2))) / 2
        return self._linear(f"{name}.net.2", value * gelu)

    def _linear(self, name, x):
        return x @ self.tensors[f"{name}.weight"].T + self.tensors.get(f"{name}.bias", 0)

    def _conv(self, name, x, **options):
        return F.conv2d(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"], **options)

    def _group_norm(self, name, x, groups, eps=1e-6):
        parts = x.reshape(len(x), groups, -1)
        variance, mean = torch.var_mean(parts, dim=-1, correction=0, keepdim=True)
        normed = ((parts - mean) / (variance + eps).sqrt()).reshape(x.shape)
        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        return normed * weight[:, None, None] + bias[:, None, None]

    def _layer_norm(self, name, x):
        variance, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
        normed = (x - mean) / (variance + 1e-5).sqrt()
        return normed * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]


def _frame_positions(frames, width):
    angles = torch.arange(frames)[:, None] * 10000.0 ** (-torch.arange(0, width, 2) / width)
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


def sample(
    unet, bank, z_reference, image_embedding, motion, negative, noise, offsets, steps, scale, size,
    overlap,
) -> Tensor:  # fmt: skip
    """Return latents (C, F, h, w): DDIM from the blurred reference, guidance, closed windows.

    `noise` is (C, F, h, w), `motion` (F, L, D), `negative` (L, D); a step takes one of `offsets`.
    """
    frames, channels = len(motion), len(noise)
    kept = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.02**0.5, 1000) ** 2, dim=0)
    stride = 1000 // steps
    timesteps = [i * stride + 1 for i in reversed(range(steps))]
    line = torch.exp(-(torch.arange(-4.0, 5) ** 2) / (2 * 18**2))
    kernel = torch.outer(line, line) / line.sum() ** 2
    padded = F.pad(z_reference[None], (4, 4, 4, 4), mode="reflect")
    blurred = F.conv2d(padded, kernel.expand(channels, 1, 9, 9), groups=channels)[0]
    first = kept[timesteps[0]]
    x = first.sqrt() * blurred[:, None] + (1 - first).sqrt() * noise
    for t, offset in zip(timesteps, offsets, strict=True):
        windows = [list(range(frames))]
        if frames > size:
            starts = range(0, frames, size - overlap)
            windows = [[(s + offset + i) % frames for i in range(size)] for s in starts]
        sums, counts = torch.zeros(2, *x.shape), torch.zeros(frames)
        for window in windows:
            z, times = x[:, window].transpose(0, 1), torch.full((len(window),), t)
            none = unet(z, times, 0 * image_embedding, negative.expand(len(window), -1, -1),
                        None, len(window))  # fmt: skip
            full = unet(z, times, image_embedding, motion[window], [bank], len(window))
            sums[0][:, window] += none.transpose(0, 1)
            sums[1][:, window] += full.transpose(0, 1)
            for frame in window:
                counts[frame] += 1
        none, full = sums / counts[:, None, None]
        noise_found = none + scale * (full - none)
        clean = (x - (1 - kept[t]).sqrt() * noise_found) / kept[t].sqrt()
        after = kept[t - stride] if t >= stride else torch.tensor(1.0)
        x = after.sqrt() * clean + (1 - after).sqrt() * noise_found
    return x
