"""Moves the face of one photograph by known parameters: a warp of pixels, no network.

The head is a shallow dome of depth that turns in three dimensions and carries its surroundings
along, fading to a still background. Within the face the jaw drops, lids close, mouth corners and
brows move. Every step is a mapping from the moved picture back to the photograph, so the whole is
one resampling of it; only the inside of an opening mouth, which the photograph does not show, is
painted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipelines.demo.faces import Face, Portrait
from pipelines.demo.motion import MOTION_NAMES

Field = NDArray[np.float32]

# The head's displacement is solved on every fourth pixel and interpolated: it has no finer detail.
_CELL = 4
# Fixed-point steps that invert the head's motion; the error after them is below 0.05 px.
_STEPS = 10
# The dome's height and how far around the head things move along, both in head radii.
_DEPTH = 0.72
_REACH = 2.3


def render(portrait: Portrait, motion_TP: NDArray[np.floating]) -> Iterator[NDArray[np.uint8]]:
    """Yield the portrait moved by each row of a motion array (see `MOTION_NAMES`).

    Frames are uint8 RGB of the portrait's own size; a row of zeros gives the portrait itself, bit
    for bit.
    """
    warp = FaceWarp(portrait)
    for row in motion_TP:
        yield warp.frame(row)


class FaceWarp:
    """The warp of one portrait; holds what all its frames share."""

    def __init__(self, portrait: Portrait):
        self.image = portrait.image
        self.face: Face = portrait.face
        self.height, self.width = portrait.image.shape[:2]

    def frame(self, row: NDArray[np.floating]) -> NDArray[np.uint8]:
        """One moved frame, uint8 RGB [H, W, 3], from one motion row [P]."""
        import cv2

        m = dict(zip(MOTION_NAMES, (float(v) for v in row), strict=True))
        x, y = self._undo_head(m)
        inside = self._undo_mouth(m["mouth"], x, y)
        self._undo_smile_and_brow(m["smile"], m["brow"], x, y)
        lids = self._undo_blink(m["blink"], x, y)
        picture = cv2.remap(self.image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        moved = np.asarray(picture, np.uint8)
        for window, darker in lids:
            moved[window] = np.rint(moved[window] * (1 - darker[..., None]))
        if inside is not None:
            window, depth, cover = inside
            moved[window] = _paint_mouth(moved[window], depth, cover)
        return moved

    def move_points(
        self, points_N2: NDArray[np.floating], row: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Where points of the photograph on the rigid head lie in the moved frame, [N, 2]."""
        m = dict(zip(MOTION_NAMES, (float(v) for v in row), strict=True))
        points = np.asarray(points_N2, np.float64)
        dx, dy = self._head_displacement(points[:, 0], points[:, 1], m)
        return points + np.stack([dx, dy], 1)

    # The head -----------------------------------------------------------------------------------

    @cached_property
    def _grid(self) -> tuple[Field, Field]:
        """Pixel coordinates of the whole picture, each [H, W]."""
        x, y = np.meshgrid(
            np.arange(self.width, dtype=np.float32), np.arange(self.height, dtype=np.float32)
        )
        return x, y

    @cached_property
    def _cells(self) -> tuple[Field, Field]:
        """Centres of the coarse cells in pixels, each [h, w]."""
        columns, rows = -(-self.width // _CELL), -(-self.height // _CELL)
        x = (np.arange(columns, dtype=np.float32) + 0.5) * self.width / columns - 0.5
        y = (np.arange(rows, dtype=np.float32) + 0.5) * self.height / rows - 0.5
        cell_x, cell_y = np.meshgrid(x, y)
        return cell_x, cell_y

    def _in_cells(self, x: Field, y: Field) -> tuple[Field, Field]:
        """Pixel coordinates in units of the coarse cells' grid."""
        rows, columns = self._cells[0].shape
        scale_x, scale_y = np.float32(columns / self.width), np.float32(rows / self.height)
        return (x + 0.5) * scale_x - 0.5, (y + 0.5) * scale_y - 0.5

    def _head_displacement(self, x, y, m: dict[str, float]):
        """How far points of the photograph move with the head: (dx, dy) in pixels."""
        centre_x, centre_y, half_width, half_height = self.face.head
        c, s = _direction(self.face.tilt)
        # Upright head coordinates: u to the right, v down, in pixels from the head's centre.
        u, v = _rotate(x - centre_x, y - centre_y, c, s)
        radius = np.hypot(u / half_width, v / half_height)
        nose_u, nose_v = _rotate(self.face.nose[0] - centre_x, self.face.nose[1] - centre_y, c, s)
        bump = np.exp(-(((u - nose_u) / (0.22 * half_width)) ** 2))
        bump = bump * np.exp(-(((v - nose_v) / (0.30 * half_height)) ** 2))
        z = half_width * (_DEPTH * np.maximum(0.0, 1 - radius**2) + 0.07 * bump)

        (cos_yaw, sin_yaw), (cos_pitch, sin_pitch), (cos_roll, sin_roll) = (
            _direction(m[k]) for k in ("yaw", "pitch", "roll")
        )
        # The neck is the pivot: nodding and tipping carry the crown farther than the chin.
        pivot = 0.85 * half_height
        turned_u = u * cos_yaw + z * sin_yaw
        turned_z = z * cos_yaw - u * sin_yaw
        raised_v = (v - pivot) * cos_pitch - turned_z * sin_pitch
        zoom = math.exp(m["zoom"])
        new_u = zoom * (turned_u * cos_roll - raised_v * sin_roll)
        new_v = zoom * (turned_u * sin_roll + raised_v * cos_roll) + pivot
        new_u = new_u + 2 * half_width * m["shift_x"]
        new_v = new_v + 2 * half_width * m["shift_y"]

        # A quarter of the way out from the head's edge still moves fully, so hair stays in one.
        weight = 1 - _ease((radius - 1.0) / (_REACH - 1.0))
        du, dv = weight * (new_u - u), weight * (new_v - v)
        return c * du - s * dv, s * du + c * dv

    def _undo_head(self, m: dict[str, float]) -> tuple[Field, Field]:
        """For each pixel of the moved picture, where in the photograph it comes from."""
        import cv2

        x, y = self._grid
        if not any(m[k] for k in ("yaw", "pitch", "roll", "shift_x", "shift_y", "zoom")):
            return x.copy(), y.copy()
        cell_x, cell_y = self._cells
        dx, dy = self._head_displacement(cell_x, cell_y, m)
        back_x, back_y = dx, dy
        for _ in range(_STEPS):
            at_x, at_y = self._in_cells(cell_x - back_x, cell_y - back_y)
            back_x = cv2.remap(dx, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            back_y = cv2.remap(dy, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        size = (self.width, self.height)
        return (
            x - cv2.resize(back_x, size, interpolation=cv2.INTER_LINEAR),
            y - cv2.resize(back_y, size, interpolation=cv2.INTER_LINEAR),
        )

    # The expression -----------------------------------------------------------------------------
    # Each step changes the fields x and y in place, within a window around the part it moves.

    def _undo_mouth(self, amount: float, x: Field, y: Field):
        """Undo the dropping of the jaw.

        Returns None or, where the mouth stands open, (window, depth, cover): `cover` is how much of
        a pixel the opening fills and `depth` how far down the opening it is, both in [0, 1].
        """
        (left_x, left_y), (mid_x, mid_y), (right_x, right_y) = self.face.mouth
        span = math.hypot(right_x - left_x, right_y - left_y)
        c, s = (right_x - left_x) / span, (right_y - left_y) / span
        # Mouth coordinates: along the lips, and down, from the middle of the parting line.
        left, sag_left = _rotate(left_x - mid_x, left_y - mid_y, c, s)
        right, sag_right = _rotate(right_x - mid_x, right_y - mid_y, c, s)
        jaw = _rotate(self.face.chin[0] - mid_x, self.face.chin[1] - mid_y, c, s)[1]
        centre = (mid_x - 0.8 * jaw * s, mid_y + 0.8 * jaw * c)
        window = _window(x, y, centre, max(1.6 * span, 2.4 * jaw)) if amount > 0 else None
        if window is None:
            return None
        along, down = _rotate(x[window] - mid_x, y[window] - mid_y, c, s)
        part = np.clip(np.where(along < 0, along / left, along / right), 0, 1) ** 2
        down = down - np.where(along < 0, sag_left, sag_right) * part

        lips = 1 - part
        aside = (along - 0.5 * (left + right)) / (0.85 * span)
        aside *= aside
        drop = amount * min(0.34 * span, 0.45 * jaw) * np.exp(-aside * aside)
        opening = drop * lips
        top = -0.12 * opening

        def lowered(at):
            """How far the jaw's drop carries a point that is `at` pixels below the lips' line."""
            grip = lips + part * _ease(at / jaw)
            return drop * grip * (1 - _ease((at - jaw) / (1.3 * jaw)))

        source = np.maximum(down - opening, 0)
        for _ in range(5):
            source = np.maximum(down - lowered(source), 0)
        above = np.minimum(down - top * np.exp(-((down / (0.35 * jaw)) ** 2)), 0)
        shift = np.where(down >= opening, source, np.where(down < top, above, 0)) - down
        x[window] -= s * shift
        y[window] += c * shift

        gap = opening - top
        cover = np.clip(down - top + 0.3, 0, 1) * np.clip(opening - down + 0.3, 0, 1)
        cover *= np.clip(gap - 0.5, 0, 1)
        return window, np.clip((down - top) / np.maximum(gap, 1), 0, 1), cover

    def _undo_smile_and_brow(self, smile: float, brow: float, x: Field, y: Field) -> None:
        """Undo the pull on the mouth's corners and the lift of the brows."""
        import cv2

        if not smile and not brow:
            return
        c, s = _direction(self.face.tilt)
        (left, _, right) = self.face.mouth
        span = math.hypot(right[0] - left[0], right[1] - left[1])
        pulls = []
        for corner, side in ((left, -1), (right, 1)):
            out, up = 0.10 * smile * span * side, -0.13 * smile * span
            pulls.append((corner, out, up, 0.42 * span, 0.34 * span))
        for eye in self.face.eyes:
            width = math.hypot(eye.right[0] - eye.left[0], eye.right[1] - eye.left[1])
            # Just above the crease, narrow enough to leave the lid itself alone.
            centre = (eye.crease[0] + 0.35 * width * s, eye.crease[1] - 0.35 * width * c)
            pulls.append((centre, 0.0, -0.20 * brow * width, 0.75 * width, 0.30 * width))
        # As smooth as the head's field, and solved on the same cells; then looked up.
        cell_x, cell_y = self._cells
        dx, dy = np.zeros_like(cell_x), np.zeros_like(cell_y)
        for _ in range(3):
            du, dv = np.zeros_like(cell_x), np.zeros_like(cell_y)
            for (centre_x, centre_y), out, up, wide, tall in pulls:
                u, v = _rotate(cell_x - dx - centre_x, cell_y - dy - centre_y, c, s)
                near = np.exp(-((u / wide) ** 2) - (v / tall) ** 2)
                du, dv = du + out * near, dv + up * near
            dx, dy = c * du - s * dv, s * du + c * dv
        at_x, at_y = self._in_cells(x, y)
        x -= cv2.remap(dx, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        y -= cv2.remap(dy, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def _undo_blink(self, amount: float, x: Field, y: Field):
        """Undo the upper lids' way down: the skin between crease and lid edge stretches.

        Returns a list of (window, darker): how much the lashes darken each pixel, in [0, 1].
        """
        lids = []
        for eye in self.face.eyes if amount > 0 else ():
            width = math.hypot(eye.right[0] - eye.left[0], eye.right[1] - eye.left[1])
            c, s = (eye.right[0] - eye.left[0]) / width, (eye.right[1] - eye.left[1]) / width
            window = _window(x, y, eye.upper, 1.2 * width)
            if window is None:
                continue
            along, down = _rotate(x[window] - eye.left[0], y[window] - eye.left[1], c, s)
            across = np.clip(along, 0, width)
            heights = []
            for point in (eye.upper, eye.lower):
                # The curve through both corners of the eye and the middle of a lid's edge.
                peak, height = _rotate(point[0] - eye.left[0], point[1] - eye.left[1], c, s)
                side = np.where(across < peak, 1 - across / peak, (across - peak) / (width - peak))
                heights.append(height * (1 - side**2))
            upper, lower = heights
            crease_x, crease_y = eye.crease[0] - eye.upper[0], eye.crease[1] - eye.upper[1]
            crease = upper - abs(_rotate(crease_x, crease_y, c, s)[1])
            edge = upper + amount * (lower - upper)
            stretch = (upper - crease) / np.maximum(edge - crease, 1e-3)
            eye_columns = (along > 0) & (along < width)
            lid = (down > crease) & (down < edge) & eye_columns
            shift = np.where(lid, (down - crease) * (stretch - 1), 0)
            x[window] -= s * shift
            y[window] += c * shift
            thick = 0.05 * width * (1 - np.clip(abs(2 * along / width - 1), 0, 1) ** 4) + 0.01
            line = np.exp(-(((down - edge) / thick) ** 2)) * eye_columns
            lids.append((window, 0.6 * min(1.0, 2 * amount) * line))
        return lids


def _window(x: Field, y: Field, centre, reach: float) -> tuple[slice, slice] | None:
    """Rows and columns of the moved picture that show what is near a point of the photograph."""
    near = (abs(x - centre[0]) < reach) & (abs(y - centre[1]) < reach)
    rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
    if not rows.size:
        return None
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _paint_mouth(picture: NDArray[np.uint8], depth: Field, cover: Field) -> NDArray[np.uint8]:
    """Fill the open mouth: dark above, the tongue's red towards the lower lip."""
    dark, tongue = np.array([38, 14, 14], np.float32), np.array([132, 58, 54], np.float32)
    rise = _ease((depth - 0.35) / 0.65)[..., None]
    colour = dark + (tongue - dark) * 0.8 * rise
    alpha = cover[..., None]
    return np.rint(picture * (1 - alpha) + colour * alpha).astype(np.uint8)


def _rotate(x, y, c, s):
    """Coordinates along and across a direction (c, s)."""
    return c * x + s * y, -s * x + c * y


def _direction(degrees: float) -> tuple[float, float]:
    """Cosine and sine of an angle, as Python's numbers: NumPy's would widen float32 fields."""
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))


def _ease(x):
    """The smooth step from 0 at x <= 0 to 1 at x >= 1."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)
