"""A linear readout of named motion numbers from the motion latent, used in training only."""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn


class MotionReadout(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Predict standardised motion numbers, such as yaw or jawOpen, from the face-motion vector.

    Linear, so that whatever it reads lies in the latent in a form that the denoiser's
    cross-attention can use, and so that its accuracy is that of a linear probe.
    """

    mean: Tensor
    scale: Tensor

    @register_to_config
    def __init__(self, latent_width: int, numbers: int) -> None:
        super().__init__()
        self.linear = nn.Linear(latent_width, numbers)
        # Statistics of the data that the readout was first trained on; they travel with it.
        self.register_buffer("mean", torch.zeros(numbers))
        self.register_buffer("scale", torch.zeros(numbers))

    def forward(self, face: Tensor) -> Tensor:
        """Return (..., numbers) in standard deviations for vectors (..., latent_width)."""
        read: Tensor = self.linear(face)
        return read

    @property
    def has_statistics(self) -> bool:
        """Whether `set_statistics` was called, here or before the weights were saved."""
        return bool((self.scale > 0).any())

    def set_statistics(self, mean_K: Tensor, std_K: Tensor) -> None:
        """Set the data's statistics; a number that hardly varies or is unknown is not predicted."""
        known = torch.isfinite(mean_K) & (std_K > 1e-4)
        self.mean.copy_(torch.where(known, mean_K, 0.0))
        self.scale.copy_(torch.where(known, std_K, 0.0))

    def standardise(self, motion: Tensor) -> Tensor:
        """Return motion numbers (..., numbers) in standard deviations; NaN where unknown."""
        return (motion.float() - self.mean) / self.scale.masked_fill(self.scale == 0, torch.nan)
