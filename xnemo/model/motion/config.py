"""Shape of the motion encoder."""

from dataclasses import dataclass

from preprocessing.errors import UserError


@dataclass(frozen=True)
class MotionEncoderConfig:
    """Shape of the motion encoder; `MotionEncoder(**asdict(config))` builds it.

    The defaults are the published network.
    """

    # Side of the square driving crop in pixels; a multiple of 8.
    image_size: int = 224
    # Channels after the first convolution; later stages have 2 and 4 times as many.
    stem_width: int = 64
    # Channels of the last map before it is flattened (68 facial landmarks in the ancestor).
    heatmaps: int = 68
    # Halvings inside the hourglass, which starts at image_size / 4.
    hourglass_depth: int = 4
    # Token width of the three patch attentions; a multiple of 16 and of attention_heads.
    attention_width: int = 1024
    # Heads of the patch attentions.
    attention_heads: int = 8
    # Groups of the patch attentions' entry norms.
    norm_groups: int = 32
    # Width of the face-motion vector, which the GAN head also receives.
    latent_width: int = 512
    # Width of the embedded face position and scale.
    box_width: int = 64
    # Number of motion tokens.
    tokens: int = 32
    # Width of a motion token; must equal the denoiser's motion_width.
    token_width: int = 16
    # Probability of dropping an activation in the hourglass while training (0.5 in the official
    # code; what the authors trained with is not published).
    dropout: float = 0.5
    # Standardise the box, the face-motion vector and the tokens over the batch (batch norms without
    # weights), and the single-channel map before the vector over its cells. The published network
    # does not. Training from random weights requires it: both heads first learn to ignore the noisy
    # latent, the channel falls below zero before its ReLU, and its gradient vanishes for good.
    standardise: bool = False

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name not in ("dropout", "standardise") and value < 1:
                raise UserError(f"motion.{name} = {value}", "use 1 or more")
        if not 0 <= self.dropout < 1:
            raise UserError(f"motion.dropout = {self.dropout}", "use a value in [0, 1)")
        if self.image_size % 8 or self.image_size // 4 < 2**self.hourglass_depth:
            raise UserError(
                f"motion.image_size = {self.image_size} does not fit"
                f" hourglass_depth = {self.hourglass_depth}",
                f"use a multiple of 8, {4 * 2**self.hourglass_depth} or more, or a smaller depth",
            )
        if self.attention_width % 16 or self.attention_width % self.attention_heads:
            raise UserError(
                f"motion.attention_width = {self.attention_width}",
                f"use a multiple of 16 and of attention_heads = {self.attention_heads}",
            )
        if self.stem_width % 2 or 2 * self.stem_width % self.norm_groups:
            raise UserError(
                f"motion.stem_width = {self.stem_width} with norm_groups = {self.norm_groups}",
                "use an even stem_width whose double is a multiple of norm_groups",
            )
        if self.token_width % 2:
            raise UserError(f"motion.token_width = {self.token_width}", "use an even width")
