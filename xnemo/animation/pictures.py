"""Between uint8 pictures and the networks' tensors."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_tensor(pictures_NHWC: NDArray[np.uint8]) -> Tensor:
    """Return float32 (N, 3, H, W) in [-1, 1]."""
    x = torch.from_numpy(np.array(pictures_NHWC)).permute(0, 3, 1, 2)
    return x.float().div_(127.5).sub_(1)


def to_pictures(x_NCHW: Tensor) -> NDArray[np.uint8]:
    """Return uint8 (N, H, W, 3) of pictures in [-1, 1]; values beyond are cut."""
    x = x_NCHW.detach().float().add(1).mul(127.5).round().clamp(0, 255)
    return x.permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy()
