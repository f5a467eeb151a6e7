"""Render the contact sheets of docs/synthetic.md.

python scripts/synthetic_sheets.py
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from preprocessing.synthetic import make_motion, render, sample_motion, sample_person

IMAGES = Path(__file__).parents[1] / "docs/images"


def sheet(frames: list[NDArray[np.uint8]], columns: int, path: Path) -> None:
    """Save frames in rows."""
    rows = [np.hstack(frames[i : i + columns]) for i in range(0, len(frames), columns)]
    Image.fromarray(np.vstack(rows)).save(path, quality=82)


def main() -> None:
    """Render 24 people at rest, and four people in the same eight motions."""
    people = [render(sample_person(seed), make_motion(), 160)[0] for seed in range(24)]
    sheet(people, 8, IMAGES / "synthetic_people.jpg")
    motion = sample_motion(5, np.linspace(0.3, 11, 8))
    frames = [frame for seed in (1, 6, 9, 21) for frame in render(sample_person(seed), motion, 160)]
    sheet(frames, 8, IMAGES / "synthetic_motions.jpg")


if __name__ == "__main__":
    main()
