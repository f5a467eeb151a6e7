"""The noise schedule: signal and noise at each timestep, and the prediction target."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from preprocessing.errors import UserError


@dataclass(frozen=True)
class DiffusionConfig:
    """Forward process and loss weighting, shared by training and sampling."""

    # Names of the same fields in diffusers' schedulers.
    SCHEDULER_NAMES: ClassVar[dict[str, str]] = {
        "train_steps": "num_train_timesteps",
        "beta_start": "beta_start",
        "beta_end": "beta_end",
        "beta_schedule": "beta_schedule",
        "prediction_type": "prediction_type",
        "zero_terminal_snr": "rescale_betas_zero_snr",
    }

    # Number of timesteps of the forward process.
    train_steps: int = 1000
    # First beta.
    beta_start: float = 0.00085
    # Last beta. The release has 0.02, Stable Diffusion 0.012: 0.02 % of the signal is left at the
    # last step instead of 0.5 %.
    beta_end: float = 0.02
    # Growth of beta: linear in its square root, or linear.
    beta_schedule: Literal["scaled_linear", "linear"] = "scaled_linear"
    # Prediction target: the noise (the release), v (Salimans and Ho 2022), or the clean latents,
    # which small networks on pixels learn fastest.
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon"
    # Rescale so that the last step has no signal (Lin et al. 2023); not with epsilon.
    zero_terminal_snr: bool = False
    # Cap of the signal-to-noise ratio in the loss weight (Hang et al. 2023); 0 is a plain mean
    # squared error. Not published; chosen because it is the simplest and related work differs.
    min_snr_gamma: float = 0.0
    # Training draws timestep t with a density proportional to t to this power; 0 is uniform. At low
    # noise the noisy latents determine the result, so a short run learns more about reference and
    # motion from high noise.
    timestep_bias: float = 0.0
    # Denoising steps and guidance scale that suit the model; animation uses them where its settings
    # are empty. The defaults are the release's.
    sampling_steps: int = 35
    sampling_guidance: float = 2.5

    def __post_init__(self) -> None:
        if self.train_steps < 1:
            raise UserError(f"diffusion.train_steps = {self.train_steps}", "use 1 or more")
        if self.sampling_steps < 1:
            raise UserError(f"diffusion.sampling_steps = {self.sampling_steps}", "use 1 or more")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise UserError(
                f"diffusion.beta_start = {self.beta_start}, beta_end = {self.beta_end}",
                "use 0 < beta_start <= beta_end < 1",
            )
        if self.beta_schedule not in ("scaled_linear", "linear"):
            raise UserError(
                f"diffusion.beta_schedule = {self.beta_schedule!r}", "use scaled_linear or linear"
            )
        if self.prediction_type not in ("epsilon", "v_prediction", "sample"):
            raise UserError(
                f"diffusion.prediction_type = {self.prediction_type!r}",
                "use epsilon, v_prediction or sample",
            )
        if self.zero_terminal_snr and self.prediction_type == "epsilon":
            raise UserError(
                "diffusion.zero_terminal_snr with prediction_type epsilon: pure noise as the target"
                " of the last step carries no information",
                "set diffusion.prediction_type to v_prediction or sample",
            )
        if self.timestep_bias < 0:
            raise UserError(f"diffusion.timestep_bias = {self.timestep_bias}", "use 0 or more")
        if self.min_snr_gamma < 0:
            raise UserError(f"diffusion.min_snr_gamma = {self.min_snr_gamma}", "use 0 or more")

    def scheduler_arguments(self) -> dict[str, Any]:
        """Return the arguments of a diffusers scheduler with this forward process."""
        return {theirs: getattr(self, name) for name, theirs in self.SCHEDULER_NAMES.items()}


class NoiseSchedule:
    """The forward process of a `DiffusionConfig`: ᾱ per timestep, noising, targets and weights.

    Timesteps are one integer per sample; all frames of a clip share it.
    """

    def __init__(self, config: DiffusionConfig) -> None:
        self.config = config
        self.alphas_cumprod = self._alphas_cumprod(config)

    @staticmethod
    def _alphas_cumprod(config: DiffusionConfig) -> Tensor:
        start, end, steps = config.beta_start, config.beta_end, config.train_steps
        if config.beta_schedule == "scaled_linear":
            betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float32) ** 2
        else:
            betas = torch.linspace(start, end, steps, dtype=torch.float32)
        if not config.zero_terminal_snr:
            return torch.cumprod(1 - betas, dim=0)
        # Shift and stretch √ᾱ so that it keeps its first value and ends at zero.
        roots = torch.cumprod(1 - betas, dim=0).sqrt()
        return ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2

    def draw_timestep(self, rng: np.random.Generator) -> int:
        """Draw the timestep of one training sample."""
        steps, bias = self.config.train_steps, self.config.timestep_bias
        if bias == 0:
            return int(rng.integers(steps))
        return min(steps - 1, int(steps * rng.random() ** (1 / (1 + bias))))

    def _signal_and_noise(self, timesteps_B: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        table = self.alphas_cumprod.to(like.device)
        kept_B = table[timesteps_B.to(like.device)]
        shape = (-1,) + (1,) * (like.ndim - 1)
        signal, noise = kept_B.sqrt(), (1 - kept_B).sqrt()
        return signal.view(shape).to(like.dtype), noise.view(shape).to(like.dtype)

    def add_noise(self, z: Tensor, noise: Tensor, timesteps_B: Tensor) -> Tensor:
        """Return √ᾱ·z + √(1−ᾱ)·noise for latents (B, ...)."""
        signal, sigma = self._signal_and_noise(timesteps_B, z)
        return signal * z + sigma * noise

    def target(self, z: Tensor, noise: Tensor, timesteps_B: Tensor) -> Tensor:
        """Return the prediction target: noise, v = √ᾱ·noise − √(1−ᾱ)·z, or z itself."""
        if self.config.prediction_type == "epsilon":
            return noise
        if self.config.prediction_type == "sample":
            return z
        signal, sigma = self._signal_and_noise(timesteps_B, z)
        return signal * noise - sigma * z

    def predicted_latents(self, z_noisy: Tensor, prediction: Tensor, timesteps_B: Tensor) -> Tensor:
        """Return the clean latents that a prediction implies."""
        if self.config.prediction_type == "sample":
            return prediction
        signal, sigma = self._signal_and_noise(timesteps_B, z_noisy)
        if self.config.prediction_type == "epsilon":
            return (z_noisy - sigma * prediction) / signal
        return signal * z_noisy - sigma * prediction

    def loss_weights(self, timesteps_B: Tensor) -> Tensor:
        """Return one weight per sample (B,): 1, or min(snr, γ) over the target's scale."""
        gamma = self.config.min_snr_gamma
        kept_B = self.alphas_cumprod.to(timesteps_B.device)[timesteps_B]
        if gamma == 0:
            return torch.ones_like(kept_B)
        snr_B = kept_B / (1 - kept_B)
        capped_B = snr_B.clamp(max=gamma)
        if self.config.prediction_type == "epsilon":
            return capped_B / snr_B
        if self.config.prediction_type == "sample":
            return capped_B
        return capped_B / (snr_B + 1)
