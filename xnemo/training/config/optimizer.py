"""Optimiser and weight averaging."""

from dataclasses import dataclass
from typing import Literal

from preprocessing.errors import UserError, require_at_least


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW of both engines and its learning rate schedule, counted in samples."""

    # "adamw": torch.optim.AdamW. "fused": the same with fused kernels. "8bit": bitsandbytes.
    kind: Literal["adamw", "fused", "8bit"] = "adamw"
    # Learning rate of the denoiser and the reference network.
    lr: float = 1e-5
    # Learning rate of the motion encoder and the motion modules, as a multiple of lr.
    motion_lr_scale: float = 1.0
    # Learning rate of the motion encoder without its projection to tokens, as a multiple of lr;
    # empty uses motion_lr_scale, 0 freezes it, batch norms included.
    encoder_lr_scale: float | None = None
    # Learning rate of the GAN head. Its kernels use StyleGAN2's equalised learning rate (2e-3
    # there), so a step changes them less than the same rate does elsewhere.
    gan_lr: float = 1e-3
    # Learning rate of the discriminator. Its kernels are not equalised: at the published size a
    # step of this rate changes them by 0.2 to 3 %, and one of gan_lr changes the head's by 0.1 %,
    # so the discriminator is the faster one, as in its ancestors' two time scales (PC-AVS, SPADE).
    discriminator_lr: float = 2e-4
    # AdamW's betas for all networks but the GAN head and the discriminator.
    betas: tuple[float, float] = (0.9, 0.999)
    # AdamW's betas for the GAN head and the discriminator; adversarial training needs a low beta1.
    gan_betas: tuple[float, float] = (0.5, 0.99)
    # AdamW's epsilon.
    eps: float = 1e-8
    # Decoupled weight decay of matrices and kernels; norms and biases have none.
    weight_decay: float = 1e-2
    # Largest global gradient norm of each engine; larger gradients are scaled down.
    clip: float = 1.0
    # Samples over which the learning rate rises linearly from zero.
    warmup_samples: int = 0
    # Learning rate schedule after the warm-up, up to `samples`.
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    # Fraction of the learning rate that "cosine" and "linear" end at.
    final_share: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges."""
        require_at_least(
            "optimizer.", self, lr=0, gan_lr=0, discriminator_lr=0, weight_decay=0, warmup_samples=0
        )
        require_at_least("optimizer.", self, motion_lr_scale=0, encoder_lr_scale=0)
        if self.clip <= 0:
            raise UserError(
                f"optimizer.clip is {self.clip}", "set it above 0; 1e9 disables clipping"
            )
        if self.eps <= 0:
            raise UserError(f"optimizer.eps is {self.eps}", "set it above 0, such as 1e-8")
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
    """Moving average of the weights with a power profile (EDM2, Karras et al. 2024, section 3)."""

    # Whether to average weights; bundles then hold both averaged and raw weights.
    enabled: bool = True
    # Width of the averaging window relative to the number of samples seen.
    relative_width: float = 0.1

    def __post_init__(self) -> None:
        """Check that the width has a power (EDM2, equation 126)."""
        if not 0 < self.relative_width < 0.28:
            raise UserError(
                f"ema.relative_width is {self.relative_width}", "set it above 0 and below 0.28"
            )
