"""Moving pictures with a face in them: cheap to draw, and every seed its own."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

Pictures = list[np.ndarray]
# (seed, number of frames, width, height) to RGB uint8 [H, W, 3] each.
Footage = Callable[[int, int, int, int], Pictures]

# The head of scikit-image's astronaut (Eileen Collins, NASA, public domain): x, y, width, height.
_HEAD = (145, 0, 170, 220)


@lru_cache(maxsize=1)
def _head() -> np.ndarray:
    """Return the head with a soft edge: float32 [H, W, 4], colour times cover, and cover."""
    from skimage.data import astronaut

    x, y, width, height = _HEAD
    picture = astronaut()[y : y + height, x : x + width].astype(np.float32)
    rows, columns = np.mgrid[:height, :width]
    distance = ((columns - width / 2) / (width * 0.48)) ** 2 + (
        (rows - height * 0.5) / (height * 0.5)
    ) ** 2
    cover = np.clip((1 - distance) * 6, 0, 1).astype(np.float32)[..., None]
    return np.concatenate([picture * cover, cover], axis=2)


def astronaut_footage(seed: int, count: int, width: int = 256, height: int = 256) -> Pictures:
    """Draw a head that sways before a painted wall; wall, size and path follow the seed."""
    rng = np.random.default_rng(seed)
    head = _head()
    rows, columns = head.shape[:2]
    colours = rng.integers(30, 220, (7, 7, 3)).astype(np.float32)
    wall = np.clip(cv2.resize(colours, (width, height), interpolation=cv2.INTER_CUBIC), 0, 255)
    head = head * np.array([*rng.uniform(0.85, 1.1, 3), 1], dtype=np.float32)
    size = rng.uniform(0.62, 0.78) * min(width, height) / rows
    phase, speed = rng.uniform(0, 6.28, 4), rng.uniform(1.0, 2.2, 4)
    centre = np.array([width, height]) * rng.uniform(0.47, 0.53, 2)
    pictures = []
    for number in range(count):
        sway = np.sin(number / 25 * speed + phase)
        scale = size * (1 + 0.04 * sway[2])
        angle = np.deg2rad(7 * sway[3])
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        middle = centre + sway[:2] * min(width, height) * 0.05
        # Only the square the head can reach is drawn anew.
        reach = int(size * rows * 0.75)
        left, top = (max(0, int(place) - reach) for place in middle)
        right, bottom = left + 2 * reach, top + 2 * reach
        place = wall[top:bottom, left:right]
        shift = middle - (left, top) - turn @ np.array([columns / 2, rows / 2])
        matrix = np.hstack([turn, shift[:, None]])
        moved = cv2.warpAffine(head, matrix, (place.shape[1], place.shape[0]))
        picture = wall.astype(np.uint8)
        blended = place * (1 - moved[..., 3:]) + moved[..., :3]
        picture[top:bottom, left:right] = np.clip(blended, 0, 255)
        pictures.append(picture)
    return pictures


def video_footage(path: Path) -> Footage:
    """Footage from a talking-head video: a different stretch and framing of it for every seed."""
    from preprocessing.decode import open_video

    with open_video(path) as reader:
        whole = [frame.rgb() for frame in reader.frames()]

    def draw(seed: int, count: int, width: int = 256, height: int = 256) -> Pictures:
        rng = np.random.default_rng(seed)
        start = int(rng.integers(0, max(1, len(whole) - count)))
        zoom = rng.uniform(0.85, 1.0)
        pictures = []
        for number in range(count):
            # Back and forth where the video is too short.
            place = (start + number) % (2 * len(whole) - 2 or 1)
            picture = whole[min(place, 2 * len(whole) - 2 - place)]
            rows, columns = picture.shape[:2]
            side = int(min(rows, columns) * zoom)
            top, left = (rows - side) // 2, (columns - side) // 2
            piece = picture[top : top + side, left : left + side]
            pictures.append(cv2.resize(piece, (width, height), interpolation=cv2.INTER_AREA))
        return pictures

    return draw
