"""Contact sheet of an animation: the portrait, and driving above generated frames over time."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_GAP = 6
_LABEL = 20
_PAPER = (255, 255, 255)
_INK = (40, 40, 40)


def contact_sheet(
    reference: NDArray[np.uint8],
    driving: Sequence[NDArray[np.uint8]],
    result: Sequence[NDArray[np.uint8]],
    labels: Sequence[str],
    cell: int = 192,
) -> Image.Image:
    """Draw the reference at the left and a column of driving and generated frame for every label.

    Args:
        reference: RGB uint8 image.
        driving: One RGB uint8 image per label, of any size, shown uncropped; empty where the motion
            comes from a file.
        result: The generated frames, likewise.
        labels: Text above each column.
        cell: Side of an image on the sheet in pixels.
    """
    columns = len(labels) + 1
    width = columns * (cell + _GAP) + _GAP
    height = 2 * (cell + _GAP + _LABEL)
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)

    def place(image: NDArray[np.uint8], column: int, row: int, label: str) -> None:
        x = _GAP + column * (cell + _GAP)
        y = row * (cell + _GAP + _LABEL)
        draw.text((x, y + 3), label, fill=_INK, font=font)
        shown = Image.fromarray(image)
        shown.thumbnail((cell, cell), Image.Resampling.LANCZOS)
        if max(shown.size) < cell:
            factor = cell / max(shown.size)
            size = (round(shown.width * factor), round(shown.height * factor))
            shown = shown.resize(size, Image.Resampling.BICUBIC)
        offset = ((cell - shown.width) // 2, (cell - shown.height) // 2)
        sheet.paste(shown, (x + offset[0], y + _LABEL + offset[1]))

    place(reference, 0, 0, "reference")
    for row, (name, images) in enumerate((("driving", driving), ("result", result))):
        for column, (image, label) in enumerate(zip(images, labels, strict=bool(images)), 1):
            place(image, column, row, f"{name} {label}")
    return sheet


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Write a sheet as PNG, atomically."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        sheet.save(temporary, format="PNG")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
