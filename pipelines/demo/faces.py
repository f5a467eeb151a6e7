"""The eight real portraits of the demo, taken from photographs inside installed packages.

Nothing is downloaded: scikit-image brings a portrait of Eileen Collins and matplotlib one of Grace
Hopper (both made by the United States government, public domain); insightface brings the group
photo its own examples use. The places of eyes, mouth and head below were measured by hand on those
photographs, because moving an eyelid needs its edges, and no five-point detector gives them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from preprocessing.errors import UserError

Point = tuple[float, float]


@dataclass(frozen=True)
class Eye:
    """One eye: its corners, the middle of both lid edges, and where the upper lid's skin begins."""

    left: Point
    right: Point
    upper: Point
    lower: Point
    crease: Point


@dataclass(frozen=True)
class Face:
    """Where the parts of a face are, in pixels of its image.

    `head` is the ellipse of the head with its hair (centre, half width, half height); `tilt` the
    clockwise roll of the face in degrees; `mouth` the left end, middle and right end of the line
    along which the lower lip parts from what is above it (the teeth in an open smile).
    """

    head: tuple[float, float, float, float]
    tilt: float
    eyes: tuple[Eye, ...]
    mouth: tuple[Point, Point, Point]
    nose: Point
    chin: Point

    def moved(self, origin: Point, scale: Point) -> Face:
        """The same face in a crop that begins at `origin` and is enlarged by `scale` (x, y).

        Pixel centres are at whole numbers, as OpenCV's resize and remap have them.
        """

        def point(p: Point) -> Point:
            return (
                (p[0] - origin[0] + 0.5) * scale[0] - 0.5,
                (p[1] - origin[1] + 0.5) * scale[1] - 0.5,
            )

        x, y, half_width, half_height = self.head
        left, middle, right = self.mouth
        return Face(
            head=(*point((x, y)), half_width * scale[0], half_height * scale[1]),
            tilt=self.tilt,
            eyes=tuple(
                Eye(*(point(p) for p in (e.left, e.right, e.upper, e.lower, e.crease)))
                for e in self.eyes
            ),
            mouth=(point(left), point(middle), point(right)),
            nose=point(self.nose),
            chin=point(self.chin),
        )


@dataclass(frozen=True)
class Photograph:
    """An image file inside an installed package, known by the digest of its bytes."""

    package: str
    path: str
    sha256: str
    licence: str

    def read(self) -> NDArray[np.uint8]:
        """The image as uint8 RGB [H, W, 3]; UserError where it is missing or another one."""
        import cv2

        spec = find_spec(self.package)
        if spec is None or not spec.submodule_search_locations:
            raise UserError(
                f"the package {self.package}, which brings a demo portrait, is not installed",
                "run `make setup`, or pip install xnemo with its dependencies",
            )
        file = Path(spec.submodule_search_locations[0]) / self.path
        content = file.read_bytes() if file.is_file() else b""
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise UserError(
                f"{file} is not the photograph the demo's faces were measured on",
                f"install the release of {self.package} that constraints.txt pins",
            )
        image = np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR))
        return np.ascontiguousarray(image[..., ::-1], np.uint8)


@dataclass(frozen=True)
class Portrait:
    """A cropped portrait (uint8 RGB [H, W, 3]) and the face in it."""

    identity: str
    image: NDArray[np.uint8]
    face: Face
    licence: str


@dataclass(frozen=True)
class Sitter:
    """A person: the photograph, the crop (x0, y0, x1, y1), its enlargement, and the face in it."""

    photograph: Photograph
    crop: tuple[int, int, int, int]
    scale: float
    face: Face


ASTRONAUT = Photograph(
    "skimage",
    "data/astronaut.png",
    "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    "public domain (NASA)",
)
HOPPER = Photograph(
    "matplotlib",
    "mpl-data/sample_data/grace_hopper.jpg",
    "a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130",
    "public domain (US Navy)",
)
GROUP = Photograph(
    "insightface",
    "data/images/t1.jpg",
    "47f682e945b659f93a9e490b9c9c4a2a864abe64dace9e1a2893845ddfd69489",
    "sample image of the insightface package; not redistributed",
)

SITTERS: dict[str, Sitter] = {
    "collins": Sitter(
        ASTRONAUT,
        (66, 0, 386, 320),
        1.2,
        Face(
            head=(226, 97, 74, 84),
            tilt=2.0,
            eyes=(
                Eye((193, 101), (212, 102.5), (203, 97), (203, 105), (203, 92)),
                Eye((237, 104), (259, 103.5), (246.5, 99.5), (247, 107), (246.5, 94.5)),
            ),
            mouth=((203, 140.5), (224.5, 149.5), (247, 141)),
            nose=(223, 127),
            chin=(224, 178),
        ),
    ),
    "hopper": Sitter(
        HOPPER,
        (0, 0, 512, 520),
        0.7,
        Face(
            head=(264, 215, 112, 128),
            tilt=-2.0,
            eyes=(
                Eye((203, 193), (240, 195), (221, 184), (221, 198), (221, 181)),
                Eye((285, 193), (324, 191), (304, 181), (304, 195), (304, 177)),
            ),
            mouth=((231, 281), (267, 279.5), (309, 277)),
            nose=(266, 240),
            chin=(267, 332),
        ),
    ),
    "sitter-1": Sitter(
        GROUP,
        (0, 165, 270, 475),
        1.15,
        Face(
            head=(110, 318, 70, 88),
            tilt=-24.0,
            eyes=(
                Eye((75, 334), (98, 323), (85, 327), (87, 333.5), (83, 320)),
                Eye((118, 313), (142, 304), (129, 306), (131, 311.5), (126, 299)),
            ),
            mouth=((114, 371), (130, 363), (149, 351)),
            nose=(121, 341),
            chin=(131, 398),
        ),
    ),
    "sitter-2": Sitter(
        GROUP,
        (192, 60, 460, 340),
        1.15,
        Face(
            head=(330, 190, 70, 82),
            tilt=-28.0,
            eyes=(
                Eye((285, 214), (298, 208), (291, 206), (292, 217), (289, 203)),
                Eye((312, 199), (332, 190), (320, 189.5), (322, 197.5), (318, 186)),
            ),
            mouth=((313, 246), (323, 240), (342, 232)),
            nose=(303, 228),
            chin=(338, 263),
        ),
    ),
    "sitter-3": Sitter(
        GROUP,
        (385, 175, 725, 515),
        1.1,
        Face(
            head=(528, 320, 72, 96),
            tilt=14.0,
            eyes=(
                Eye((481, 318), (504, 326), (491, 315.5), (491, 323), (492, 313.5)),
                Eye((526, 331), (552, 337), (538, 328), (537, 336.5), (539, 326)),
            ),
            mouth=((479, 364), (507, 388), (541, 378)),
            nose=(511, 360),
            chin=(509, 415),
        ),
    ),
    "sitter-4": Sitter(
        GROUP,
        (625, 225, 975, 575),
        1.1,
        Face(
            head=(808, 388, 68, 94),
            tilt=6.0,
            eyes=(
                Eye((752, 397), (772, 403), (761, 395), (762, 401), (762, 391)),
                Eye((787, 403), (815, 406), (803, 401), (804, 407), (803, 397)),
            ),
            mouth=((770, 442), (787, 451.5), (808, 442)),
            nose=(778, 430),
            chin=(784, 478),
        ),
    ),
    "sitter-5": Sitter(
        GROUP,
        (780, 0, 1122, 310),
        1.1,
        Face(
            head=(970, 108, 84, 104),
            tilt=-6.0,
            eyes=(Eye((932, 118), (957, 115), (944, 111), (945, 121), (944, 108)),),
            mouth=((932, 172), (943, 175.5), (960, 168)),
            nose=(922, 151),
            chin=(958, 207),
        ),
    ),
    "sitter-6": Sitter(
        GROUP,
        (985, 180, 1280, 480),
        1.15,
        Face(
            head=(1185, 325, 70, 88),
            tilt=-3.0,
            eyes=(
                Eye((1140, 329), (1160, 325), (1149, 325), (1150, 333), (1149, 318)),
                Eye((1182, 324), (1207, 323), (1194, 322), (1195, 328), (1194, 316)),
            ),
            mouth=((1154, 367), (1172, 369), (1198, 364)),
            nose=(1170, 350),
            chin=(1172, 402),
        ),
    ),
}


def load_portrait(identity: str) -> Portrait:
    """The portrait of one of `SITTERS`, cropped and enlarged.

    Raises UserError for an unknown name or a photograph that is missing.
    """
    import cv2

    if identity not in SITTERS:
        raise UserError(f"no demo portrait is named {identity!r}", f"take one of {list(SITTERS)}")
    sitter = SITTERS[identity]
    x0, y0, x1, y1 = sitter.crop
    crop = sitter.photograph.read()[y0:y1, x0:x1]
    # Whole blocks of the codecs, so that none of them pads.
    width, height = (16 * round((side * sitter.scale) / 16) for side in (x1 - x0, y1 - y0))
    image = np.asarray(cv2.resize(crop, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
    scale = (width / (x1 - x0), height / (y1 - y0))
    return Portrait(identity, image, sitter.face.moved((x0, y0), scale), sitter.photograph.licence)
