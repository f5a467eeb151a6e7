"""How coded pixels lie on the screen: rotation and mirror tags, and pixels that are not square."""

import struct
from dataclasses import dataclass
from fractions import Fraction

import cv2
import numpy as np

Box = tuple[float, float, float, float]

# Beyond this a sample aspect ratio is a broken header, not a lens.
_MOST_ANAMORPHIC = Fraction(4)


@dataclass(frozen=True)
class Orientation:
    """Maps between the coded picture and the upright, square-pixel picture a person sees.

    The displayed picture is the coded one stretched by (`stretch_x`, `stretch_y`), then transposed
    where `transpose`, then mirrored left-right where `flip_x` and upside down where `flip_y`.
    """

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False
    stretch_x: Fraction = Fraction(1)
    stretch_y: Fraction = Fraction(1)

    @property
    def rotation(self) -> int:
        """Clockwise turn in degrees that the tag asks for: 0, 90, 180 or 270 (mirrors aside)."""
        if self.transpose:
            return 270 if self.flip_y else 90
        return 180 if self.flip_y else 0

    @property
    def is_identity(self) -> bool:
        """Tell whether coded and displayed pixels are the same."""
        return not (self.transpose or self.flip_x or self.flip_y) and self.is_square

    @property
    def is_square(self) -> bool:
        """Tell whether pixels are square."""
        return self.stretch_x == 1 and self.stretch_y == 1

    def displayed_size(self, width: int, height: int) -> tuple[int, int]:
        """Return (width, height) on the screen of a coded picture of `width` × `height`."""
        across = max(1, round(width * self.stretch_x))
        down = max(1, round(height * self.stretch_y))
        return (down, across) if self.transpose else (across, down)

    def coded_box(self, box: Box, width: int, height: int) -> Box:
        """Map a displayed box (x0, y0, x1, y1) to coded pixels of a `width` × `height` picture."""
        shown_width, shown_height = self.displayed_size(width, height)
        x0, y0, x1, y1 = box
        if self.flip_x:
            x0, x1 = shown_width - x1, shown_width - x0
        if self.flip_y:
            y0, y1 = shown_height - y1, shown_height - y0
        if self.transpose:
            x0, y0, x1, y1 = y0, x0, y1, x1
            shown_width, shown_height = shown_height, shown_width
        scale_x, scale_y = width / shown_width, height / shown_height
        return (x0 * scale_x, y0 * scale_y, x1 * scale_x, y1 * scale_y)

    def turn(self, picture: np.ndarray) -> np.ndarray:
        """Turn and mirror a picture [H, W, ...] (already stretched) as it is to be seen."""
        if self.transpose:
            picture = cv2.transpose(picture)
        if self.flip_x or self.flip_y:
            both = self.flip_x and self.flip_y
            picture = cv2.flip(picture, -1 if both else int(self.flip_x))
        return picture


def orientation_of(display_matrix: bytes | None, sample_aspect: Fraction | None) -> Orientation:
    """Read an orientation from a display matrix (nine 32-bit numbers) and a pixel aspect.

    Angles between right angles go to the nearest one. Pixels are stretched along the side that is
    too short, so no detail is lost; an aspect outside 1:4 to 4:1 is taken for a broken header and
    ignored.
    """
    transpose = flip_x = flip_y = False
    if display_matrix is not None and len(display_matrix) >= 36:
        a, b, _, c, d = struct.unpack("=5i", bytes(display_matrix)[:20])
        # Displayed x grows with a·x + c·y of the coded position, displayed y with b·x + d·y.
        transpose = abs(b) + abs(c) > abs(a) + abs(d)
        flip_x, flip_y = (c < 0, b < 0) if transpose else (a < 0, d < 0)
    aspect = sample_aspect or Fraction(1)
    if not 1 / _MOST_ANAMORPHIC <= aspect <= _MOST_ANAMORPHIC:
        aspect = Fraction(1)
    return Orientation(
        transpose=transpose,
        flip_x=flip_x,
        flip_y=flip_y,
        stretch_x=max(aspect, Fraction(1)),
        stretch_y=max(1 / aspect, Fraction(1)),
    )
