"""How weights are moved, and averaged."""

from dataclasses import dataclass
from typing import Literal

from preprocessing.errors import UserError, require_at_least


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW for both engines and the course of its learning rate, counted in samples."""

    # "adamw": torch's own. "fused": torch's fused kernels. "8bit": bitsandbytes, where installed.
    kind: Literal["adamw", "fused", "8bit"] = "adamw"
    # Learning rate of denoiser and reference network.
    lr: float = 1e-5
    # Learning rate of what brings motion in, encoder and motion modules, as a multiple of lr.
    motion_lr_scale: float = 1.0
    # The same for the encoder alone; empty takes motion_lr_scale.
    encoder_lr_scale: float | None = None
    # Learning rate of the GAN head. Its kernels are kept at unit deviation (StyleGAN2's equalised
    # rate, which is 2e-3 there), so that a step counts for less than elsewhere.
    gan_lr: float = 1e-3
    # Learning rate of the discriminator.
    discriminator_lr: float = 2e-4
    # Decay of the first and second moments, network engine.
    betas: tuple[float, float] = (0.9, 0.999)
    # The same for GAN head and discriminator: adversarial training wants little momentum.
    gan_betas: tuple[float, float] = (0.5, 0.99)
    # Added to the root of the second moment.
    eps: float = 1e-8
    # Decoupled weight decay of matrices and kernels; norms and biases have none.
    weight_decay: float = 1e-2
    # Gradients of an engine are scaled down to this global norm.
    clip: float = 1.0
    # Samples over which the learning rate rises from zero.
    warmup_samples: int = 0
    # Course after the warm-up.
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    # Share of the learning rate left at the end of "cosine" and "linear".
    final_share: float = 0.0

    def __post_init__(self) -> None:
        """Refuse rates that cannot train."""
        require_at_least(
            "optimizer.", self, lr=0, gan_lr=0, discriminator_lr=0, weight_decay=0, warmup_samples=0
        )
        require_at_least("optimizer.", self, motion_lr_scale=0, encoder_lr_scale=0)
        if self.clip <= 0:
            raise UserError(f"optimizer.clip is {self.clip}", "set it above 0; 1e9 clips nothing")
        if self.eps <= 0:
            raise UserError(f"optimizer.eps is {self.eps}", "set it above 0, as 1e-8")
        for name in ("betas", "gan_betas"):
            if not all(0 <= beta < 1 for beta in getattr(self, name)):
                raise UserError(
                    f"optimizer.{name} is {getattr(self, name)}", "set both to at least 0, below 1"
                )
        if not 0 <= self.final_share <= 1:
            raise UserError(
                f"optimizer.final_share is {self.final_share}", "set it between 0 and 1"
            )


@dataclass(frozen=True)
class EmaConfig:
    """Running average of the weights, power profile of Karras et al. 2024 (EDM2), section 3."""

    # Whether to keep one; the bundle then holds both.
    enabled: bool = True
    # Width of the averaging window relative to the samples seen so far.
    relative_width: float = 0.1

    def __post_init__(self) -> None:
        """Refuse widths for which no power exists."""
        if not 0 < self.relative_width < 0.28:
            raise UserError(
                f"ema.relative_width is {self.relative_width}", "set it above 0 and below 0.28"
            )
