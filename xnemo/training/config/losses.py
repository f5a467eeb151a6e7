"""Loss weights and condition dropout."""

from dataclasses import dataclass

from preprocessing.errors import UserError, require_at_least


@dataclass(frozen=True)
class ConditionConfig:
    """Random removal of the denoiser's conditions during training."""

    # Probability of nulling a sample's reference, image embedding and motion together, for
    # classifier-free guidance. Not published; chosen because related methods use 0.1.
    dropout: float = 0.1
    # Share of reference tokens removed at random in every layer (reference feature masking).
    reference_masking: float = 0.3

    def __post_init__(self) -> None:
        """Check that both are in [0, 1)."""
        for name in ("dropout", "reference_masking"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(
                    f"condition.{name} is {getattr(self, name)}", "set it to at least 0, below 1"
                )


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses.

    The total is diffusion + gan * (l1 + perceptual + feature_matching + adversarial) + motion. The
    weights inside the parentheses are not published; the defaults are those of the methods that the
    motion encoder is taken from.
    """

    # Weight of the GAN head's losses relative to the diffusion loss. Not published; chosen because
    # both heads then give the motion latent gradients of similar size.
    gan: float = 0.3
    # Weight of the L1 distance between generated and target pixels.
    l1: float = 1.0
    # Weight of the VGG feature distance, whose weights `perceptual.weights` names; 0 disables it.
    perceptual: float = 10.0
    # Weight of the distance between discriminator features of generated and target images, a sum
    # over layers.
    feature_matching: float = 10.0
    # Weight of the generator's hinge loss.
    adversarial: float = 1.0
    # Weight of the discriminator's gradient penalty at real images (R1, by finite difference); 0
    # disables it. Not published; off because spectral normalisation already bounds the
    # discriminator.
    r1: float = 0.0
    # Weight of a linear readout of motion numbers (head pose, gaze, facial actions) from the motion
    # latent, where the data knows them: all of them for synthetic people, the head pose for others.
    # Not published; it keeps an encoder that starts from random weights from being ignored, and
    # from forgetting what the other losses do not need yet. The motion stage has no other loss.
    motion: float = 0.0

    def __post_init__(self) -> None:
        """Check that no weight is negative."""
        require_at_least(
            "loss.", self, gan=0, l1=0, perceptual=0, feature_matching=0, adversarial=0
        )
        require_at_least("loss.", self, r1=0, motion=0)
