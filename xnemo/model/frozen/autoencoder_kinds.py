"""The kinds of frozen autoencoders: two fixed transforms, and diffusers' learned ones."""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Autoencoder(nn.Module):
    """Maps images to scaled latents and back; never trained. Kinds define `encode` and `decode`."""

    factor: int
    latent_channels: int
    decode_chunk: int

    def encode(self, image_BCHW: Tensor) -> Tensor:
        """Return latents (B, latent_channels, H/factor, W/factor) of images in [-1, 1]."""
        raise NotImplementedError

    def decode(self, z_BChw: Tensor) -> Tensor:
        """Return the images (B, 3, H, W) of latents, approximately in [-1, 1]."""
        raise NotImplementedError

    def decode_chunks(self, z_BCFhw: Tensor) -> Iterator[Tensor]:
        """Yield the frames of a clip in order, (B, 3, f, H, W) with f ≤ `decode_chunk`."""
        for z in z_BCFhw.split(self.decode_chunk, dim=2):
            x = self._decode_frames(z.transpose(1, 2).flatten(0, 1), z.shape[2])
            yield x.unflatten(0, (z.shape[0], z.shape[2])).transpose(1, 2)

    def decode_video(self, z_BCFhw: Tensor) -> Tensor:
        """Return all frames (B, 3, F, H, W)."""
        return torch.cat(list(self.decode_chunks(z_BCFhw)), dim=2)

    def train(self, mode: bool = True) -> "Autoencoder":
        """Stay in evaluation mode, also as part of a network in training."""
        return super().train(False)

    def _decode_frames(self, z_NChw: Tensor, num_frames: int) -> Tensor:
        """Decode the frames of a chunk; N is samples × `num_frames`."""
        return self.decode(z_NChw)


class SpaceToDepth(Autoencoder):
    """Moves each factor×factor square of pixels into channels: orthonormal, exact, no weights.

    Diffusion on these latents is diffusion on pixels; a mean squared error is the same in both.
    """

    def __init__(self, factor: int, scale: float, decode_chunk: int) -> None:
        super().__init__()
        self.factor, self.scale, self.decode_chunk = factor, scale, decode_chunk
        self.latent_channels = 3 * factor**2

    def encode(self, image_BCHW: Tensor) -> Tensor:
        """Return latents (B, 3·factor², H/factor, W/factor)."""
        return F.pixel_unshuffle(image_BCHW, self.factor) * self.scale

    def decode(self, z_BChw: Tensor) -> Tensor:
        """Return the images of latents."""
        return F.pixel_shuffle(z_BChw / self.scale, self.factor)


# Brightness, red minus blue, and both minus green: orthogonal.
_COLOURS = torch.tensor([[1.0, 1, 1], [1, 0, -1], [1, -2, 1]], dtype=torch.float64)
# Typical standard deviation of a colour difference relative to brightness.
_COLOUR_STD = 0.35


class BlockDct(Autoencoder):
    """Discrete cosine transform of each factor×factor block, lowest frequencies kept; no weights.

    A quarter of the numbers retains what a face looks like, so that a small network works on few
    cells of few channels. Amplitudes of images fall with frequency f about as 1 / f; the square
    root of that is divided out, which brings the channels nearer to one scale.

    Args:
        factor: Side of a block in pixels.
        kept: Number of frequencies of brightness and of each colour difference.
        scale: Multiplies the latents.
        decode_chunk: Frames decoded at once.
    """

    encoder: Tensor
    decoder: Tensor

    def __init__(self, factor: int, kept: tuple[int, int], scale: float, decode_chunk: int) -> None:
        super().__init__()
        self.factor, self.decode_chunk = factor, decode_chunk
        # Constants, on the CPU even while a network is built on the meta device.
        with torch.device("cpu"):
            waves = _cosines(factor)
            colours = _COLOURS / _COLOURS.norm(dim=1, keepdim=True)
            frequencies = sorted(
                ((y, x) for y in range(factor) for x in range(factor)),
                key=lambda frequency: (math.hypot(*frequency), frequency),
            )
            bases, sizes = [], []
            deviations = (1.0, _COLOUR_STD, _COLOUR_STD)
            counts = (kept[0], kept[1], kept[1])
            for colour, deviation, count in zip(colours, deviations, counts, strict=True):
                for y, x in frequencies[:count]:
                    bases.append(torch.einsum("c,i,j->cij", colour, waves[y], waves[x]))
                    sizes.append(math.sqrt(deviation / (0.5 + math.hypot(y, x))))
            self.latent_channels = len(bases)
            basis = torch.stack(bases)
            size = torch.tensor(sizes, dtype=torch.float64).view(-1, 1, 1, 1)
            self.register_buffer("encoder", (basis / size * scale).float(), persistent=False)
            self.register_buffer("decoder", (basis * size / scale).float(), persistent=False)

    def encode(self, image_BCHW: Tensor) -> Tensor:
        """Return latents (B, C, H/factor, W/factor), C = kept[0] + 2·kept[1]."""
        return F.conv2d(image_BCHW, self.encoder.to(image_BCHW), stride=self.factor)

    def decode(self, z_BChw: Tensor) -> Tensor:
        """Return the images that have these low frequencies and no others."""
        return F.conv_transpose2d(z_BChw, self.decoder.to(z_BChw), stride=self.factor)


def _cosines(size: int) -> Tensor:
    """Return the orthonormal cosine transform, (frequency, position)."""
    index = torch.arange(size, dtype=torch.float64)
    waves = torch.cos(math.pi * (index[None] + 0.5) * index[:, None] / size)
    waves[0] /= math.sqrt(2)
    return waves * math.sqrt(2 / size)


class LearnedAutoencoder(Autoencoder):
    """A diffusers autoencoder, frozen; encoding takes the mean of the distribution.

    Images and latents may be on another device than the model, and results return to it: a pipeline
    that keeps one part at a time on the GPU moves the model in between.
    """

    def __init__(self, model: Any, temporal: bool, scale: float, decode_chunk: int) -> None:
        super().__init__()
        self.model: Any = model.requires_grad_(False).eval()
        self.temporal, self.scale, self.decode_chunk = temporal, scale, decode_chunk
        self.latent_channels, self.factor = int(self.model.config.latent_channels), 8

    @torch.no_grad()
    def encode(self, image_BCHW: Tensor) -> Tensor:
        """Return scaled mean latents (B, latent_channels, H/8, W/8)."""
        self._run_offload_hook()
        dtype = self._weight.dtype
        # Encoders of this family overflow in fp16 and declare it. Encoding runs once per video.
        if dtype == torch.float16 and getattr(self.model.config, "force_upcast", False):
            self.model.float()
        encoded = self.model.encode(image_BCHW.to(self._weight))
        if self._weight.dtype != dtype:
            self.model.to(dtype)
        if hasattr(encoded, "latent_dist"):
            z = encoded.latent_dist.mean
        else:
            # diffusers' own name differs between its two autoencoders without a distribution.
            z = encoded.latents if hasattr(encoded, "latents") else encoded.latent
        return z.to(image_BCHW) * self.scale

    @torch.no_grad()
    def decode(self, z_BChw: Tensor) -> Tensor:
        """Return images; the temporal kind decodes each as a clip of one frame."""
        return self._decode_frames(z_BChw, num_frames=1)

    @torch.no_grad()
    def _decode_frames(self, z_NChw: Tensor, num_frames: int) -> Tensor:
        """Decode a chunk, whose frames the temporal kind decodes jointly."""
        self._run_offload_hook()
        z = (z_NChw / self.scale).to(self._weight)
        options = {"num_frames": num_frames} if self.temporal else {}
        return self.model.decode(z, **options).sample.to(z_NChw)

    @property
    def _weight(self) -> Tensor:
        """Any weight; all share its device and dtype."""
        weight: Tensor = next(self.model.parameters())
        return weight

    def _run_offload_hook(self) -> None:
        """Run the hook of an offloading pipeline, which only `forward` would trigger."""
        hook: Any = getattr(self, "_hf_hook", None)
        if hook is not None:
            hook.pre_forward(self)
