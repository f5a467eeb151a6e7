"""Inputs of a pipeline: files, PIL images and arrays as RGB uint8 arrays."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
import PIL.Image
from diffusers.utils import load_image
from numpy.typing import NDArray

from preprocessing.errors import UserError, first_line
from xnemo.animation.driving_video import DrivingVideo
from xnemo.animation.motion import Frames

Image = PIL.Image.Image | NDArray[np.uint8] | str | os.PathLike[str]
Video = str | os.PathLike[str] | Sequence[Image] | Frames


def read_image(image: Image) -> NDArray[np.uint8]:
    """Return an image as RGB uint8 (height, width, 3).

    Raises:
        UserError: A file is not an image, or an array has another shape or type.
    """
    if isinstance(image, str | os.PathLike):
        try:
            image = load_image(os.fspath(image))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{image} cannot be read as an image: {first_line(error)}", "give a PNG or JPEG"
            ) from error
    if isinstance(image, PIL.Image.Image):
        return np.asarray(image.convert("RGB"))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UserError(
            f"an image is an array of {image.dtype} {image.shape}",
            "give RGB uint8 (height, width, 3), or PIL images",
        )
    return image


def read_frames(video: Video) -> Frames:
    """Return a video as RGB uint8 frames that can be iterated more than once.

    Raises:
        UserError: A file is not a video.
    """
    return DrivingVideo(video) if isinstance(video, str | os.PathLike) else _Arrays(video)


class _Arrays:
    """Frames as arrays; can be iterated more than once."""

    def __init__(self, frames: Sequence[Image] | Frames) -> None:
        # A generator can be iterated only once, and two passes are needed.
        self.frames = list(frames) if iter(frames) is frames else frames

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (read_image(frame) for frame in self.frames)
