"""Inference with the release's algorithm: the baseline of the network benchmark.

Weights, windows, noise and attention kernel are the same as in xnemo's sampler. Without its
optimisations, motion tokens are encoded for every window at every step, the two guidance branches
are two passes, cross-attention to the image embedding is computed for every cell, the reference's
keys and values are projected for every frame, feed-forward layers process all tokens at once, the
memory format is the default one, and the reference network runs for both branches.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention import FeedForward
from torch import Tensor

from xnemo.diffusion.guidance import Conditions
from xnemo.diffusion.initial_latents import initial_latents
from xnemo.diffusion.sampler import SamplerConfig, make_windows, sample_latents
from xnemo.diffusion.schedule import DiffusionConfig
from xnemo.diffusion.scheduler import make_scheduler
from xnemo.model.layers.feed_forward import GatedFeedForward
from xnemo.model.unet.spatial_transformer import SpatialBlock


@dataclass(frozen=True)
class Inputs:
    """One portrait and one driving video after cropping."""

    # Scaled latents of the reference (1, C, h, w) and its image embedding (1, 1, D).
    z_reference: Tensor
    image_embedding: Tensor
    # Driving crops (F, 3, S, S) and the reference's own (1, 3, S, S), with their box vectors.
    crops: Tensor
    boxes: Tensor
    own_crop: Tensor

    def to(self, *args: Any) -> "Inputs":
        """Move and cast all tensors."""
        return Inputs(**{name: value.to(*args) for name, value in vars(self).items()})


AT_REST = (0.0, 0.0, 1.0)


@torch.no_grad()
def run_plain(networks: Any, inputs: Inputs, config: SamplerConfig, cache_motion: bool) -> Tensor:
    """Return latents (1, C, F, h, w); with `cache_motion`, motion tokens are encoded once."""
    encoder, denoiser = networks.motion_encoder, networks.denoiser
    frames = len(inputs.crops)
    scheduler = make_scheduler(DiffusionConfig())
    scheduler.set_timesteps(config.steps)
    generator = torch.Generator().manual_seed(0)
    rest = torch.tensor([AT_REST]).to(inputs.crops)
    none = torch.zeros_like(inputs.image_embedding)
    z = initial_latents(
        inputs.z_reference.float().cpu(),
        frames,
        scheduler.alphas_cumprod[scheduler.timesteps[0]],
        generator,
    ).to(inputs.z_reference.device)
    # The reference network runs for both image embeddings; only one result is used.
    networks.reference_net(inputs.z_reference, none)
    reference = networks.reference_net(inputs.z_reference, inputs.image_embedding)
    once = encoder(inputs.crops, inputs.boxes).tokens if cache_motion else None
    with as_released():
        for t in scheduler.timesteps:
            offset = int(torch.randint(config.window, (1,), generator=generator))
            sums = torch.zeros(2, *z.shape[1:], device=z.device)
            counts = torch.zeros(frames, device=z.device)
            for window in make_windows(frames, config.window, config.overlap, offset):
                piece = z[:, :, window].to(inputs.z_reference)
                if once is None:
                    motion = encoder(inputs.crops[window], inputs.boxes[window]).tokens[None]
                else:
                    motion = once[window][None]
                negative = encoder(inputs.own_crop, rest).tokens[:, None].expand_as(motion)
                sums[0, :, window] += denoiser(piece, t, none, negative, None)[0].float()
                sums[1, :, window] += denoiser(piece, t, inputs.image_embedding, motion, reference)[
                    0
                ].float()
                counts[window] += 1
            mean = sums / counts[:, None, None]
            guided = mean[:1] + config.guidance * (mean[1:] - mean[:1])
            z = scheduler.step(guided, t, z).prev_sample
    return z.cpu()


@torch.no_grad()
def run_ours(networks: Any, inputs: Inputs, config: SamplerConfig, chunk: int = 32) -> Tensor:
    """Return the same latents with xnemo's sampler."""
    encoder = networks.motion_encoder
    parts = zip(inputs.crops.split(chunk), inputs.boxes.split(chunk), strict=True)
    motion = torch.cat([encoder(crops, boxes).tokens.float().cpu() for crops, boxes in parts])
    conditions = Conditions(
        image_embedding=inputs.image_embedding,
        reference=networks.reference_net(inputs.z_reference, inputs.image_embedding),
        motion=motion,
        negative_motion=encoder(inputs.own_crop, torch.tensor([AT_REST]).to(inputs.crops)).tokens,
    )
    return sample_latents(
        networks.denoiser,
        inputs.z_reference,
        conditions,
        make_scheduler(DiffusionConfig()),
        config,
        torch.Generator().manual_seed(0),
    )


@contextmanager
def as_released() -> Iterator[None]:
    """Remove the optimisations from the layers, as in the release."""
    ours, ours_wide = SpatialBlock.forward, GatedFeedForward.forward

    def plain(
        self: Any, tokens: Tensor, image: Tensor, read: Any, _grid: Any
    ) -> tuple[Tensor, Tensor]:
        normed = self.norm1(tokens)
        keys = normed
        if read is not None:
            bank = read.tokens_BMC.repeat_interleave(read.frames, dim=0)
            keys = torch.cat([normed, bank], dim=1)
        query, key, value = (
            layer(x).unflatten(2, (self.attn1.heads, -1)).transpose(1, 2)
            for layer, x in (
                (self.attn1.to_q, normed),
                (self.attn1.to_k, keys),
                (self.attn1.to_v, keys),
            )
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        tokens = self.attn1.to_out[0](attended.transpose(1, 2).flatten(2)) + tokens
        tokens = self.attn2(self.norm2(tokens), image) + tokens
        return self.ff(self.norm3(tokens)) + tokens, normed

    SpatialBlock.forward = plain  # type: ignore[method-assign]
    GatedFeedForward.forward = FeedForward.forward
    try:
        yield
    finally:
        SpatialBlock.forward = ours  # type: ignore[method-assign]
        GatedFeedForward.forward = ours_wide
