"""What all autoencoders share: frame folding, bounded chunks, and being frozen."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn


class FrozenAutoencoder(nn.Module):
    """Decodes clips by decoding their frames; a kind adds `encode` and `decode`."""

    factor: int
    latent_channels: int
    decode_chunk: int

    def decode(self, z_BChw: Tensor) -> Tensor:
        """Return the pictures (B, 3, H, W) of latents."""
        raise NotImplementedError

    def decode_chunks(self, z_BCFhw: Tensor) -> Iterator[Tensor]:
        """Yield (B, 3, f, H, W) pieces of the clip in order."""
        for z in z_BCFhw.split(self.decode_chunk, dim=2):
            x = self.decode(z.transpose(1, 2).flatten(0, 1))
            yield x.unflatten(0, (z.shape[0], z.shape[2])).transpose(1, 2)

    def decode_video(self, z_BCFhw: Tensor) -> Tensor:
        """Return all frames (B, 3, F, H, W)."""
        return torch.cat(list(self.decode_chunks(z_BCFhw)), dim=2)

    def train(self, mode: bool = True) -> "FrozenAutoencoder":
        """Stay in evaluation mode: part of a training network, but never trained."""
        return super().train(False)
