"""Small pictures of clips for the report's contact sheets."""

import io

import numpy as np
from PIL import Image

from preprocessing.chunk.clips import Clip
from preprocessing.chunk.tube import cut
from preprocessing.decode import Frame

_SIDE = 96
_FRAMES = 3


def contact_strip(clip: Clip, size: int) -> bytes:
    """Return the first, middle and last picture of a clip side by side, as JPEG."""
    picks = np.unique(np.linspace(0, len(clip.moments) - 1, _FRAMES).round().astype(int))
    side = max(16, min(size, 512))
    pictures = []
    for index in picks:
        picture = cut(clip.moments[index].part, clip.tube, clip.frame_hw, side)
        small = Image.fromarray(Frame(picture, pts_us=0, index=0).rgb()).resize((_SIDE, _SIDE))
        pictures.append(np.asarray(small))
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(pictures, axis=1)).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
