"""What a run reads and how it disturbs the driving picture."""

from dataclasses import dataclass, field
from typing import Literal

from preprocessing.errors import UserError


@dataclass(frozen=True)
class AugmentConfig:
    """Disturbance of the driving crop, so that only motion is left to read from it.

    The kinds are known (colour jitter, scaling by 30 %, piecewise affine warp, face-centred crop);
    the strengths other than the scale are not published and were chosen so that a face stays
    recognisable as a face with the same expression.
    """

    # Largest relative change of brightness, contrast and saturation.
    brightness: float = 0.25
    contrast: float = 0.25
    saturation: float = 0.4
    # Largest hue rotation in turns; 0.05 is 18 degrees.
    hue: float = 0.05
    # Share of samples with colour jitter.
    colour_probability: float = 0.8
    # Largest relative change of the crop's side: 0.3 cuts between 0.7 and 1.3 of the tight crop.
    scale: float = 0.3
    # Largest relative change of the width-to-height ratio: face proportions are identity.
    aspect: float = 0.1
    # Largest shift of the crop's centre off the face's, as a fraction of the crop's side.
    shift: float = 0.03
    # Standard deviation of the warp's node displacements, as a fraction of the crop's side.
    warp: float = 0.02
    # Cells along one side of the warp's grid.
    warp_cells: int = 4
    # Share of samples with a warp.
    warp_probability: float = 0.8
    # Strength, 0 to 1, of a colour change of the whole sample, reference and target alike. With a
    # handful of people it stops the network from knowing them by heart, so that it must look at the
    # reference. Not part of the published recipe.
    appearance: float = 0.0
    # Share of samples that are mirrored, reference, target and driver alike.
    mirror: float = 0.0

    def __post_init__(self) -> None:
        """Refuse strengths that leave no picture."""
        for name in (
            "brightness",
            "contrast",
            "saturation",
            "hue",
            "scale",
            "aspect",
            "shift",
            "warp",
        ):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise UserError(f"augment.{name} is {value}", "set it to at least 0 and below 1")
        for name in ("colour_probability", "warp_probability", "appearance", "mirror"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise UserError(f"augment.{name} is {value}", "set it between 0 and 1")
        if self.warp_cells < 1:
            raise UserError(f"augment.warp_cells is {self.warp_cells}", "set it to 1 or more")


@dataclass(frozen=True)
class PairConfig:
    """How reference and target frames are drawn from a clip."""

    # "uniform": anywhere in the clip. "pose_distance": targets turned away from the reference.
    policy: Literal["uniform", "pose_distance"] = "uniform"
    # Least distance in degrees (yaw, pitch, roll together) for "pose_distance".
    min_pose_degrees: float = 15.0
    # "scattered": independent target frames. "window": consecutive frames, for temporal modules.
    layout: Literal["scattered", "window"] = "scattered"
    # Target frames per reference. Several share one pass of the reference network.
    frames: int = 1
    # Distance between the frames of a window.
    stride: int = 1

    def __post_init__(self) -> None:
        """Refuse counts below one."""
        for name, least in (("frames", 1), ("stride", 1), ("min_pose_degrees", 0)):
            if getattr(self, name) < least:
                raise UserError(
                    f"data.pairs.{name} is {getattr(self, name)}", f"set it to {least} or more"
                )


@dataclass(frozen=True)
class DataConfig:
    """Which clips a run reads, how they are drawn, and how the reading is spread over workers."""

    # Which rows of the index to use; empty takes every kept clip. See xnemo.data.selection.
    filter: str = "split == 'train'"
    # Relative share of the samples drawn from each data set; empty: by their number of clips.
    weights: tuple[float, ...] = ()
    # "clip": every clip equally often. "identity": every person equally often.
    balance: Literal["clip", "identity"] = "clip"
    # Which frames of a clip are shown.
    pairs: PairConfig = field(default_factory=PairConfig)
    # Share of samples whose box vector is the constant (0, 0, 1), as the released inference uses
    # it.
    constant_box_probability: float = 0.1
    # Processes that decode ahead; 0 decodes in threads of the training process.
    workers: int = 0
    # Threads that decode ahead where workers is 0.
    threads: int = 2
    # Micro-batches kept ready ahead of training (per process where workers is above 0).
    prefetch: int = 4
    # How often a failed read is tried again, with a growing pause, before the sample counts as bad.
    retries: int = 2
    # Bad samples replaced by others, each named in the log, before the run stops. 0 stops at the
    # first.
    max_bad_samples: int = 10
    # Compare every clip's bytes with the index's sha256 before decoding.
    verify: bool = False

    def __post_init__(self) -> None:
        """Refuse counts and shares that mean nothing."""
        for name, least in (
            ("workers", 0),
            ("threads", 1),
            ("prefetch", 1),
            ("retries", 0),
            ("max_bad_samples", 0),
        ):
            if getattr(self, name) < least:
                raise UserError(
                    f"data.{name} is {getattr(self, name)}", f"set it to {least} or more"
                )
        if not 0 <= self.constant_box_probability <= 1:
            raise UserError(
                f"data.constant_box_probability is {self.constant_box_probability}",
                "set it between 0 and 1",
            )
        if any(weight <= 0 for weight in self.weights):
            raise UserError(
                f"data.weights is {self.weights}", "give every data set a positive weight"
            )
