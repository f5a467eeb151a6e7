"""Settings of an animation."""

from dataclasses import dataclass, field
from typing import Literal

from preprocessing.errors import UserError, require_at_least, require_between
from xnemo.diffusion.sampler import SamplerConfig

BoxMode = Literal["relative", "real", "constant"]


@dataclass(frozen=True)
class FaceConfig:
    """Which faces are used, and how the driving one is followed."""

    # Face of the portrait: 1 is the largest, 2 the next, or its box x0,y0,x1,y1 in pixels of the
    # upright image, which also works for drawn faces that no detector finds.
    portrait: int | str = 1
    # Person of the driving video, likewise: 1 is who is seen longest and largest; a box names who
    # is first seen there. Where nobody is found in the box, the box itself is used, unmoving.
    driving: int | str = 1
    # Frame of the driving video whose face counts as at rest in its shot: a number from 0 or a time
    # as in 1.5s; auto takes the most frontal and neutral face of each shot.
    reference: int | str = "auto"
    # Detect the driving face in every n-th frame; boxes in between are interpolated.
    every: int = 1
    # Use only the left square of the driving frames, as the official release does.
    left_square: bool = False

    def __post_init__(self) -> None:
        for name in ("portrait", "driving"):
            chosen_face(getattr(self, name), f"faces.{name}")
        reference_frame(self.reference, 1.0)
        require_at_least("faces.", self, every=1)


@dataclass(frozen=True)
class AnimateConfig(SamplerConfig):
    """How a portrait is animated: the sampler's settings, and how faces are cropped and moved."""

    # Seed of all noise; the same seed on the same inputs gives the same clip.
    seed: int = 0
    # Which faces are used.
    faces: FaceConfig = field(default_factory=FaceConfig)
    # Position of the generated face: "relative" applies the driving face's movement to the
    # portrait's position, "real" uses the driving face's position as training does, "constant"
    # keeps the face still, as the official release does.
    box: BoxMode = "relative"
    # Gaussian smoothing of the face's position over time, in frames; 0 uses it as detected.
    box_sigma: float = 2.0
    # Strength of the motion: 1 as the driving video's, 0 holds the face of its reference frame,
    # more than 1 exaggerates. Expression, head pose and position change together.
    strength: float = 1.0
    # Driving frames encoded at once.
    motion_chunk: int = 32
    # With a second driving video: weight of its motion at the first and at the last frame.
    blend: tuple[float, float] = (0.5, 0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.box not in ("relative", "real", "constant"):
            raise UserError(f"box = {self.box!r} is unknown", "use relative, real or constant")
        require_at_least("", self, motion_chunk=1, box_sigma=0)
        require_between("", self, strength=(0, 2))


def chosen_face(text: int | str, name: str) -> int | tuple[float, float, float, float]:
    """Return the number of a face by size, from 1, or its box.

    Raises:
        UserError: The text is neither.
    """
    try:
        values = [float(part) for part in str(text).split(",")]
        if len(values) == 1 and values[0] == int(values[0]) >= 1:
            return int(values[0])
        x0, y0, x1, y1 = values
        if 0 <= x0 < x1 < 1e6 and 0 <= y0 < y1 < 1e6:
            return x0, y0, x1, y1
    except (ValueError, OverflowError):
        pass
    raise UserError(
        f"{name} = {text!r}",
        "give a number, 1 for the largest face, or a box x0,y0,x1,y1 in pixels",
    )


def reference_frame(text: int | str, fps: float | None) -> int | None:
    """Return the number of a reference frame, or None for "auto".

    Args:
        text: Frame number, time with unit ("1.5s") or "auto".
        fps: Rate of the frames; None where there is none.

    Raises:
        UserError: The text is none of these, or a time without a rate.
    """
    text = str(text).strip()
    if text == "auto":
        return None
    try:
        value = float(text.removesuffix("s"))
        if 0 <= value < 1e9:
            if not text.endswith("s") and value == int(value):
                return int(value)
            if text.endswith("s") and fps is not None:
                return round(value * fps)
    except ValueError:
        pass
    raise UserError(
        f"faces.reference = {text!r}",
        "give a frame number from 0, a time of a video file as in 1.5s, or auto",
    )
