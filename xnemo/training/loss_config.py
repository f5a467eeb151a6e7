"""What training hides from the networks, and what it asks of them."""

from dataclasses import dataclass

from preprocessing.errors import UserError, require_at_least


@dataclass(frozen=True)
class ConditionConfig:
    """What training hides from the denoiser now and then."""

    # Probability of nulling a sample's reference, image embedding and motion together, for
    # classifier-free guidance. Not published; the rate that related methods use.
    dropout: float = 0.1
    # Share of reference tokens removed at random in every layer (reference feature masking).
    reference_masking: float = 0.3

    def __post_init__(self) -> None:
        """Refuse shares outside [0, 1)."""
        for name in ("dropout", "reference_masking"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(
                    f"condition.{name} is {getattr(self, name)}", "set it to at least 0, below 1"
                )


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses.

    Their sum is diffusion + gan * (l1 + perceptual + feature_matching + adversarial) + identity
    + face_change.
    The weights inside the bracket are not published; they are those of the motion encoder's
    ancestors.
    """

    # Weight of the whole GAN head against the diffusion loss. Not published; chosen so that both
    # heads pull at the motion latent with gradients of comparable size.
    gan: float = 0.3
    # Absolute difference of pixels.
    l1: float = 1.0
    # Difference of VGG features, see `perceptual`. 0 switches it off.
    perceptual: float = 10.0
    # Difference of the discriminator's own features.
    feature_matching: float = 10.0
    # Hinge loss against the discriminator.
    adversarial: float = 1.0
    # Gradient penalty of the discriminator at real images (R1), by finite difference; 0 disables
    # it. Not published; off because spectral normalisation already bounds the discriminator.
    r1: float = 0.0
    # What the face-motion vector says alike of all frames of a sample: mostly who it is. Not part
    # of the published method, which leaves it to augmentation and to the narrow latent; with a
    # handful of people, and minutes, those do not suffice. Small weights take the person out and
    # leave the motion; with large ones the frames' vectors differ by nothing that anybody can read.
    identity: float = 0.0
    # How far a linear reader is from telling, by how the face-motion vector changes between the
    # frames of a sample, how the face does: its five landmarks, and the lightness of its parts
    # (`describe_face`). Not part of the published method, whose encoder begins with the weights of
    # a landmark network; from fresh weights, and with a handful of people, heads and encoder else
    # agree on a code for each person, which strangers do not have.
    face_change: float = 0.0

    def __post_init__(self) -> None:
        """Refuse negative weights."""
        require_at_least(
            "loss.", self, gan=0, l1=0, perceptual=0, feature_matching=0, adversarial=0
        )
        require_at_least("loss.", self, r1=0, identity=0, face_change=0)
