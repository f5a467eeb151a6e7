"""Settings of an animation."""

from dataclasses import dataclass
from typing import Literal

from preprocessing.errors import UserError
from xnemo.diffusion.sampler import SamplerConfig

BoxMode = Literal["relative", "real", "constant"]


@dataclass(frozen=True)
class AnimateConfig(SamplerConfig):
    """How a portrait is animated: the sampler's settings, and how faces are cropped and moved."""

    # Seed of all noise; the same seed on the same inputs gives the same clip.
    seed: int = 0
    # Position of the generated face: "relative" applies the driving face's movement to the
    # portrait's position, "real" uses the driving face's position as training does, "constant"
    # keeps the face still, as the official release does.
    box: BoxMode = "relative"
    # Gaussian smoothing of the face's position over time, in frames; 0 uses it as detected.
    box_sigma: float = 2.0
    # A portrait with several faces: "largest" uses the most prominent one, "only" is an error.
    portrait_face: Literal["largest", "only"] = "largest"
    # Use only the left square of the driving frames, as the official release does.
    left_square: bool = False
    # Detect the driving face in every n-th frame; boxes in between are interpolated.
    detect_every: int = 1
    # Driving frames encoded at once.
    motion_chunk: int = 32
    # With a second driving video: weight of its motion at the first and at the last frame.
    blend: tuple[float, float] = (0.5, 0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.box not in ("relative", "real", "constant"):
            raise UserError(f"box = {self.box!r} is unknown", "use relative, real or constant")
        if self.portrait_face not in ("largest", "only"):
            raise UserError(
                f"portrait_face = {self.portrait_face!r} is unknown", "use largest or only"
            )
        if self.detect_every < 1 or self.motion_chunk < 1:
            raise UserError(
                f"detect_every = {self.detect_every}, motion_chunk = {self.motion_chunk}",
                "use 1 or more for both",
            )
        if self.box_sigma < 0:
            raise UserError(f"box_sigma = {self.box_sigma}", "use 0 or more")
