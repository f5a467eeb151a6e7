"""Settings of the data and its augmentation."""

from dataclasses import dataclass, field
from typing import Literal

from preprocessing.errors import UserError, require_at_least


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of the driving crop, so that it carries motion rather than identity.

    The kinds are published (colour jitter, scaling by 30 %, piecewise affine warp, face-centred
    crop). The strengths other than `scale` are not; they were chosen because faces keep their
    expression under them.
    """

    # Largest relative change of brightness. Not published; see above.
    brightness: float = 0.25
    # Largest relative change of contrast. Not published.
    contrast: float = 0.25
    # Largest relative change of saturation. Not published.
    saturation: float = 0.4
    # Largest hue rotation in turns; 0.05 is 18 degrees. Not published.
    hue: float = 0.05
    # Probability of colour jitter. Not published.
    colour_probability: float = 0.8
    # Largest relative change of the crop's side: 0.3 gives 0.7 to 1.3 of the tight crop.
    scale: float = 0.3
    # Largest relative change of the aspect ratio, because face proportions are identity. Not
    # published.
    aspect: float = 0.1
    # Largest offset of the crop from the face's centre, as a fraction of the crop's side. Not
    # published.
    shift: float = 0.03
    # Standard deviation of the warp's node displacements, as a fraction of the crop's side. Not
    # published.
    warp: float = 0.02
    # Cells per side of the warp's grid. Not published.
    warp_cells: int = 4
    # Probability of a warp. Not published.
    warp_probability: float = 0.8
    # Strength, 0 to 1, of a colour change of the whole sample, reference and targets alike. Not
    # published; for data sets with few identities, which the networks otherwise memorise.
    appearance: float = 0.0
    # Probability of mirroring the whole sample. Not published; for data sets with few identities.
    mirror: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges."""
        colour, geometry = ("brightness", "contrast", "saturation", "hue"), ("scale", "aspect")
        for name in (*colour, *geometry, "shift", "warp"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise UserError(f"augment.{name} is {value}", "set it to at least 0 and below 1")
        for name in ("colour_probability", "warp_probability", "appearance", "mirror"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise UserError(f"augment.{name} is {value}", "set it between 0 and 1")
        require_at_least("augment.", self, warp_cells=1)


@dataclass(frozen=True)
class PairConfig:
    """How reference and target frames are drawn from a clip."""

    # "uniform": anywhere in the clip. "pose_distance": targets with another head pose than the
    # reference.
    policy: Literal["uniform", "pose_distance"] = "uniform"
    # Least pose distance (norm of yaw, pitch and roll) in degrees for "pose_distance".
    min_pose_degrees: float = 15.0
    # "scattered": independent target frames. "window": consecutive frames, for temporal modules.
    layout: Literal["scattered", "window"] = "scattered"
    # Target frames per sample; they share one pass of the reference network.
    frames: int = 1
    # Frames from one frame of a window to the next.
    stride: int = 1
    # Probability that the driving frames show another person making the same motion, so that
    # nothing of the driving identity can help. Requires clips of synthetic people in groups
    # (`xnemo synthesize --people-per-motion`); other clips drive themselves.
    matched: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges."""
        require_at_least("data.pairs.", self, frames=1, stride=1, min_pose_degrees=0)
        if not 0 <= self.matched <= 1:
            raise UserError(f"data.pairs.matched is {self.matched}", "set it between 0 and 1")

    @property
    def least_frames(self) -> int:
        """Frames that a clip must have."""
        return max(2, (self.frames - 1) * self.stride + 1) if self.layout == "window" else 2


@dataclass(frozen=True)
class DataConfig:
    """Which clips a run reads, in which order, and how."""

    # Filter expression over the columns of the index; empty selects every kept clip.
    filter: str = "split == 'train'"
    # Relative share of samples from each data set; empty is in proportion to their clips.
    weights: tuple[float, ...] = ()
    # "clip": every clip equally often. "identity": every identity equally often.
    balance: Literal["clip", "identity"] = "clip"
    # Choice of reference and target frames.
    pairs: PairConfig = field(default_factory=PairConfig)
    # What reference and targets show. "tube": the clip's whole stored square. "portrait": twice the
    # reference's face around it, which is the framing of animation.
    framing: Literal["tube", "portrait"] = "tube"
    # Probability of the constant box vector (0, 0, 1), which the released inference code uses.
    constant_box_probability: float = 0.1
    # Loader processes per worker; 0 decodes in threads of the training process.
    workers: int = 0
    # Loader threads per worker if `workers` is 0.
    threads: int = 2
    # Micro-batches to prefetch (per loader process if `workers` is above 0).
    prefetch: int = 4
    # Retries of a failed read, with exponential backoff, before the sample counts as bad.
    retries: int = 2
    # Bad samples that are logged and replaced by others before the run stops; 0 stops at the first.
    max_bad_samples: int = 10
    # Verify every clip's sha256 against the index before decoding.
    verify: bool = False

    def __post_init__(self) -> None:
        """Check ranges."""
        require_at_least(
            "data.", self, workers=0, threads=1, prefetch=1, retries=0, max_bad_samples=0
        )
        if not 0 <= self.constant_box_probability <= 1:
            raise UserError(
                f"data.constant_box_probability is {self.constant_box_probability}",
                "set it between 0 and 1",
            )
        if any(weight <= 0 for weight in self.weights):
            raise UserError(
                f"data.weights is {self.weights}", "set a positive weight for every data set"
            )
