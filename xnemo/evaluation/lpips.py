"""LPIPS (Zhang et al. 2018), version 0.1 on AlexNet, from local weight files.

The weights are not part of the project. Two files are needed: the convolutions of torchvision's
AlexNet (`features.0.weight` ...) and the published linear heads (`lin0.model.1.weight` ...).
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from preprocessing.errors import UserError

# Convolutions of AlexNet: index in `features`, channels in and out, kernel, stride, padding, and
# whether the input is pooled first.
_LAYERS = (
    (0, 3, 64, 11, 4, 2, False),
    (3, 64, 192, 5, 1, 2, True),
    (6, 192, 384, 3, 1, 1, True),
    (8, 384, 256, 3, 1, 1, False),
    (10, 256, 256, 3, 1, 1, False),
)

# Mean and standard deviation of the network's training images, for inputs in [-1, 1].
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


class Lpips(nn.Module):
    """Distance between images in [-1, 1]: two (N, 3, H, W) to (N,), 0 for equal images."""

    def __init__(self, features: dict[str, Tensor], heads: dict[str, Tensor]) -> None:
        """Build from the tensors of both files."""
        super().__init__()
        self.convolutions = nn.ModuleList()
        for number, inside, outside, kernel, stride, padding, _ in _LAYERS:
            convolution = nn.Conv2d(inside, outside, kernel, stride, padding)
            convolution.load_state_dict(
                {
                    "weight": features[f"features.{number}.weight"],
                    "bias": features[f"features.{number}.bias"],
                }
            )
            self.convolutions.append(convolution)
        for level, (_, _, outside, *_rest) in enumerate(_LAYERS):
            head = heads[f"lin{level}.model.1.weight"]
            if head.shape != (1, outside, 1, 1):
                raise ValueError(f"lin{level} has shape {tuple(head.shape)}")
            self.register_buffer(f"head{level}", head.float())
        self.requires_grad_(False).eval()

    def forward(self, a_NCHW: Tensor, b_NCHW: Tensor) -> Tensor:
        """Return the distance of each pair (N,)."""
        total = a_NCHW.new_zeros(a_NCHW.shape[0], dtype=torch.float32)
        pairs = zip(self._levels(a_NCHW), self._levels(b_NCHW), strict=True)
        for level, (a, b) in enumerate(pairs):
            head: Tensor = getattr(self, f"head{level}")
            total = total + ((a - b).square() * head).sum(1).flatten(1).mean(1)
        return total

    def _levels(self, x_NCHW: Tensor) -> list[Tensor]:
        """Return the unit-length features of every level."""
        shift, scale = (x_NCHW.new_tensor(v).view(1, 3, 1, 1).float() for v in (_SHIFT, _SCALE))
        x = (x_NCHW.float() - shift) / scale
        levels = []
        for convolution, (*_, pooled) in zip(self.convolutions, _LAYERS, strict=True):
            if pooled:
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(convolution(x))
            levels.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return levels


def load_lpips(folder: str | Path) -> Lpips:
    """Load LPIPS from `lpips_alexnet_features.pth` and `lpips_lin_alex_v0.1.pth` in a folder.

    Raises:
        UserError: A file is missing, damaged or holds other tensors.
    """
    tensors = []
    for name in ("lpips_alexnet_features.pth", "lpips_lin_alex_v0.1.pth"):
        path = Path(folder) / name
        if not path.is_file():
            raise UserError(f"{path} is missing", "give the folder with both files, or none")
        try:
            tensors.append(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:
            raise UserError(f"{path} is not a file of tensors", "download it again") from error
    try:
        return Lpips(*tensors)
    except (KeyError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{folder} holds other networks: {error}", "download both files again"
        ) from error
