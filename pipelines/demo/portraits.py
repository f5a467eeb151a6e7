"""Two public-domain photographs inside installed packages: real faces that nobody trained on."""

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from preprocessing.errors import UserError


@dataclass(frozen=True)
class Photograph:
    """An image file inside an installed package, identified by the digest of its bytes."""

    package: str
    path: str
    sha256: str
    # Crop (x0, y0, x1, y1) in pixels, resized to a square of this side.
    crop: tuple[int, int, int, int]
    side: int


PORTRAITS = {
    # Photograph by NASA.
    "collins": Photograph(
        "skimage",
        "data/astronaut.png",
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
        (66, 0, 386, 320),
        384,
    ),
    # Photograph by the US Navy.
    "hopper": Photograph(
        "matplotlib",
        "mpl-data/sample_data/grace_hopper.jpg",
        "a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130",
        (0, 0, 512, 512),
        352,
    ),
}


def load_portrait(name: str) -> NDArray[np.uint8]:
    """Return a portrait, RGB uint8 [S, S, 3].

    Raises:
        UserError: the name is unknown, or the photograph is missing or another one.
    """
    if name not in PORTRAITS:
        raise UserError(f"no demo portrait is named {name!r}", f"use one of {list(PORTRAITS)}")
    photograph = PORTRAITS[name]
    spec = find_spec(photograph.package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"the package {photograph.package}, which contains a demo portrait, is not installed",
            "run: pip install 'xnemo[demo]'",
        )
    file = Path(spec.submodule_search_locations[0]) / photograph.path
    content = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(content).hexdigest() != photograph.sha256:
        raise UserError(
            f"{file} is not the demo's photograph",
            f"install the release of {photograph.package} that constraints.txt pins",
        )
    image = np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR))
    x0, y0, x1, y1 = photograph.crop
    side = (photograph.side, photograph.side)
    resized = cv2.resize(image[y0:y1, x0:x1, ::-1], side, interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(resized, np.uint8)
