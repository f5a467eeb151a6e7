"""How much of a motion latent stays the same while the face moves."""

from torch import Tensor


def identity_leak(face_BFD: Tensor, present_B: Tensor) -> Tensor:
    """Return the share of the latent's variance that the frames of a sample have in common.

    The frames of a sample show one person, disturbed alike, so what their vectors share is the
    person and the disturbance, and what they differ by is motion: 1 for a latent that names the
    person alone, 1 / F for one whose F frames have nothing in common. It is a mean over samples, so
    neither accumulation nor the number of workers changes it.

    Args:
        face_BFD: vectors of F frames each, standardised over the batch (`motion.standardise`).
        present_B: the samples that have their condition; in others all frames are one picture, and
            these count as nothing.
    """
    shared_B = face_BFD.float().mean(dim=1).square().mean(dim=1)
    return (shared_B * present_B).mean()
