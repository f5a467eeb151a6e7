"""Read portrait files: rotated, transparent, 16-bit or CMYK images become upright RGB."""

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from preprocessing.errors import UserError

#: Suffixes of image files.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def read_portrait(path: Path) -> NDArray[np.uint8]:
    """Return an image file as upright RGB uint8 (height, width, 3).

    The first frame of an animation is used; transparent pixels become white.

    Raises:
        UserError: The file is missing, not an image, or too large.
    """
    if path.is_dir():
        raise UserError(f"the portrait {path} is a folder", "give a PNG or JPEG")
    if not path.is_file():
        raise UserError(f"there is no portrait at {path}", "check the path")
    try:
        with warnings.catch_warnings():
            # Large images are fine up to Pillow's limit, beyond which it raises.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return np.asarray(_in_colour(ImageOps.exif_transpose(image)))
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} is too large an image: {error}", "make it smaller") from error
    except PermissionError as error:
        raise UserError(f"{path} is not readable", "change its permissions") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(
            f"{path} cannot be read as an image: {error}", "give a PNG or JPEG"
        ) from error


def _in_colour(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its values are floating-point numbers")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its values have more than 16 bits")
        # Pillow itself would clip 16-bit values at 255.
        return Image.fromarray((values // 257).astype(np.uint8)).convert("RGB")
    if "transparency" in image.info or "A" in image.getbands():
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image.convert("RGBA"))
    return image.convert("RGB")
