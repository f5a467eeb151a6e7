"""A picture as the low frequencies of its blocks, like JPEG without the rounding."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from xnemo.model.frozen.frozen_autoencoder import FrozenAutoencoder

# Brightness, red against blue, and green against both: orthonormal.
_COLOURS = torch.tensor([[1.0, 1, 1], [1, 0, -1], [1, -2, 1]], dtype=torch.float64)
# Colour differences deviate by about this much where brightness deviates by 1.
_COLOUR_SIZE = 0.35


class BlockDct(FrozenAutoencoder):
    """Discrete cosine transform of each factor×factor block, lowest frequencies kept; no weights.

    A quarter of the numbers keeps what a face looks like, so that a small network works on few
    cells of few channels. Frequencies are brought nearer to one size: pictures have amplitudes that
    fall with frequency f about as 1 / f, and half of that fall, its root, is divided out.

    Args:
        factor: side of a block in pixels.
        kept: frequencies of brightness and of each colour difference.
        scale: multiplies the latents.
        decode_chunk: frames decoded at once.
    """

    encoder: Tensor
    decoder: Tensor

    def __init__(self, factor: int, kept: tuple[int, int], scale: float, decode_chunk: int) -> None:
        super().__init__()
        self.factor, self.decode_chunk = factor, decode_chunk
        # Fixed numbers, on the CPU even while a network is being built on the meta device.
        with torch.device("cpu"):
            waves = _cosines(factor)
            colours = _COLOURS / _COLOURS.norm(dim=1, keepdim=True)
            places = sorted(
                ((y, x) for y in range(factor) for x in range(factor)),
                key=lambda place: (math.hypot(*place), place),
            )
            bases, sizes = [], []
            deviations = (1.0, _COLOUR_SIZE, _COLOUR_SIZE)
            counts = (kept[0], kept[1], kept[1])
            for colour, deviation, count in zip(colours, deviations, counts, strict=True):
                for y, x in places[:count]:
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
        """Return the pictures that have these low frequencies and no others."""
        return F.conv_transpose2d(z_BChw, self.decoder.to(z_BChw), stride=self.factor)


def _cosines(size: int) -> Tensor:
    """Return the orthonormal cosine transform, (frequency, place)."""
    place = torch.arange(size, dtype=torch.float64)
    waves = torch.cos(math.pi * (place[None] + 0.5) * place[:, None] / size)
    waves[0] /= math.sqrt(2)
    return waves * math.sqrt(2 / size)
