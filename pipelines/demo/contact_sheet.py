"""Contact sheet: driving video, result and ground truth under each other, at a few frames."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from preprocessing.geometry import resize

Picture = NDArray[np.uint8]

_GAP = 6
_TITLE = 22
_WHITE = (255, 255, 255)
_INK = (60, 60, 60)


def contact_sheet(
    portrait: Picture,
    rows: Sequence[tuple[str, Sequence[Picture]]],
    columns: int = 8,
    side: int = 144,
) -> Image.Image:
    """Return clips under each other, as an RGB image with the portrait at the left.

    Args:
        portrait: uint8 RGB (S, S, 3).
        rows: title and frames of each clip, equally many, uint8 RGB (S, S, 3).
        columns: frames shown, evenly spaced over the clips.
        side: side of each image in pixels.
    """
    count = len(rows[0][1])
    shown = np.linspace(0, count - 1, min(columns, count)).round().astype(int)
    width = (1 + len(shown)) * (side + _GAP) + 3 * _GAP
    height = len(rows) * (side + _TITLE) + _GAP
    sheet = Image.new("RGB", (width, height), _WHITE)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    left = side + 3 * _GAP
    middle = (height - side - _TITLE) // 2
    draw.text((_GAP, middle), "portrait", fill=_INK, font=font)
    sheet.paste(Image.fromarray(resize(portrait, side)), (_GAP, middle + _TITLE))
    for number, (title, frames) in enumerate(rows):
        top = number * (side + _TITLE)
        draw.text((left, top + 3), title, fill=_INK, font=font)
        for column, index in enumerate(shown):
            place = (left + column * (side + _GAP), top + _TITLE)
            sheet.paste(Image.fromarray(resize(frames[index], side)), place)
    return sheet
