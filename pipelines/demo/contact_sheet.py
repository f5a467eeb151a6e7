"""A picture of a clip: driver, result and known truth side by side, at a few moments."""

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
    """Lay clips out under each other, with the portrait they animate to their left.

    Args:
        portrait: RGB uint8 square.
        rows: Title and frames of each clip, all equally many, RGB uint8 squares.
        columns: Moments shown, evenly spread over the clips' length.
        side: Side of each picture in pixels.

    Returns:
        The sheet, RGB.
    """
    count = len(rows[0][1])
    moments = np.linspace(0, count - 1, min(columns, count)).round().astype(int)
    width = (1 + len(moments)) * (side + _GAP) + 3 * _GAP
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
        for column, moment in enumerate(moments):
            place = (left + column * (side + _GAP), top + _TITLE)
            sheet.paste(Image.fromarray(resize(frames[moment], side)), place)
    return sheet
