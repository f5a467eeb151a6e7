"""The tube, one fixed square per clip, and the crop buffers it is cut from.

A clip's square follows from the union of all its face boxes, so no frame can be cropped before the
last is known. Until then a crop around the face is buffered instead of the frame, in the encoder's
own pixel format (1.5 bytes per pixel): every source frame is decoded once and encoded once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import av
import numpy as np

from preprocessing.config import TubeConfig
from preprocessing.decode import Frame
from preprocessing.decode.pixels.planes import plane_array
from preprocessing.geometry import Box, box_centre, box_side, reference_crop_box, square_box

_BLACK = (16, 128, 128)


@dataclass(frozen=True, eq=False)
class CropBuffer:
    """The region of one frame around a face: yuv420p, BT.709, limited range."""

    image: av.VideoFrame
    # Top left corner in pixels of the upright source frame; even.
    x0: int
    y0: int
    # Source pixels per pixel of `image`; above 1 only where the tube is shrunk at least as much.
    shrink: int
    # Bottom right corner of the covered area: the image's own, or the frame's where the frame ends
    # less than a pixel pair of `image` beyond it.
    x1: int
    y1: int

    @property
    def bytes(self) -> int:
        """Memory the pixels take."""
        return self.image.width * self.image.height * 3 // 2

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The box (x0, y0, x1, y1) in source pixels."""
        return (self.x0, self.y0, self.x1, self.y1)


def buffer_crop(frame: Frame, face_box: np.ndarray, config: TubeConfig) -> CropBuffer:
    """Copy the region around a face out of a decoded frame."""
    side = float((face_box[2:] - face_box[:2]).max())
    # Shrinking early by an integer what would be shrunk anyway keeps the memory of 4K at HD's.
    shrink = max(1, int(_tube_side(side, (frame.height, frame.width), config) / config.size * 0.9))
    step = 2 * shrink
    # Each frame of a clip of full length has an equal share of the memory; use all of it.
    pixels = config.buffer_mb * 2**20 / 1.5 / ((config.max_s + config.min_s) * 25)
    scale = max(config.keep_scale, pixels**0.5 * shrink / max(side, 1.0))
    left, top, right, bottom = (float(e) for e in square_box(face_box, scale))
    x0, x1 = _inside(left, right, frame.width, step)
    y0, y1 = _inside(top, bottom, frame.height, step)
    image = frame.crop((x0, y0, x1, y1), ((x1 - x0) // shrink, (y1 - y0) // shrink))
    return CropBuffer(
        image, x0, y0, shrink, _reach(x1, frame.width, step), _reach(y1, frame.height, step)
    )


def tube_box(union: np.ndarray, frame_hw: tuple[int, int], config: TubeConfig) -> Box:
    """Return a clip's square in whole source pixels, of an even side and on an even corner.

    It is X-NeMo's reference framing of the union box, `scale` × its larger side, where that lies
    inside the frame. Elsewhere the square shrinks to fit, down to `min_scale`, and is moved inside;
    only what does not fit even so reaches beyond the frame.
    """
    box = reference_crop_box(union, frame_hw, config.scale)
    side = max(2, 2 * round(float(box[2] - box[0]) / 2))
    corner = 2 * np.floor(box[:2] / 2)
    free = _even_wh(frame_hw) - side
    if (corner < 0).any() or (corner > free).any():
        side = max(2, 2 * round(_tube_side(float(box_side(union)), frame_hw, config) / 2))
        free = _even_wh(frame_hw) - side
        corner = np.clip(box_centre(union) - side / 2, np.minimum(free, 0), np.maximum(free, 0))
        corner = 2 * np.floor(corner / 2)
    return np.concatenate([corner, corner + side])


def stored_size(tube: Box, config: TubeConfig) -> int:
    """Return the stored side: the tube's, rounded down to a multiple of 16, or the limit."""
    return min(config.size, int(tube[2] - tube[0]) // 16 * 16)


def covers(buffered: Sequence[float] | np.ndarray, tube: Box, frame_hw: tuple[int, int]) -> bool:
    """Return whether all of the tube that lies inside the frame lies inside the box `buffered`."""
    x0, y0, x1, y1 = _visible(tube, frame_hw)
    left, top, right, bottom = buffered
    return left <= x0 and top <= y0 and right >= x1 and bottom >= y1


def cut(crop: CropBuffer, tube: Box, frame_hw: tuple[int, int], size: int) -> av.VideoFrame:
    """Return the tube's image at size × size, yuv420p; black beyond the frame."""
    x0, y0, x1, y1 = _visible(tube, frame_hw)
    inner = Frame(crop.image, pts_us=0, index=0)
    # At the frame's far edges the last buffered pixels also stand for the few beyond them.
    box = tuple(
        min((edge - corner) / crop.shrink, limit)
        for edge, corner, limit in zip(
            (x0, y0, x1, y1),
            (crop.x0, crop.y0) * 2,
            (crop.image.width, crop.image.height) * 2,
            strict=True,
        )
    )
    scale = size / (tube[2] - tube[0])
    left, top, right, bottom = (
        2 * round(float(edge) * scale / 2)
        for edge in (x0 - tube[0], y0 - tube[1], x1 - tube[0], y1 - tube[1])
    )
    if right <= left or bottom <= top:
        return _black(size)
    image = inner.crop(box, (right - left, bottom - top))  # type: ignore[arg-type]
    if (left, top, right, bottom) == (0, 0, size, size):
        return image
    canvas = _black(size)
    for index in range(3):
        half = 1 if index else 0
        rows = slice(top >> half, bottom >> half)
        columns = slice(left >> half, right >> half)
        plane_array(canvas, index)[rows, columns] = plane_array(image, index)
    return canvas


def pad_fraction(tube: Box, frame_hw: tuple[int, int]) -> float:
    """Return the share of the tube that lies outside the frame."""
    x0, y0, x1, y1 = _visible(tube, frame_hw)
    side = float(tube[2] - tube[0])
    return 1 - max(0, x1 - x0) * max(0, y1 - y0) / (side * side)


def _tube_side(face_side: float, frame_hw: tuple[int, int], config: TubeConfig) -> float:
    """Return the side of the square around a face, as far as the frame has room for it."""
    room = float(_even_wh(frame_hw).min())
    return max(config.min_scale * face_side, min(config.scale * face_side, room))


def _even_wh(frame_hw: tuple[int, int]) -> np.ndarray:
    return np.array(frame_hw[::-1]) // 2 * 2


def _visible(tube: Box, frame_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the tube's part inside the frame, on even edges."""
    width, height = (int(side) for side in _even_wh(frame_hw))
    x0, y0, x1, y1 = (int(edge) for edge in tube)
    return max(0, x0), max(0, y0), min(width, x1), min(height, y1)


def _inside(low: float, high: float, limit: int, step: int) -> tuple[int, int]:
    """Move an interval inside [0, limit] where it fits, else cut it; on multiples of `step`."""
    limit = limit // step * step
    length = min(limit, -(-int(np.ceil(high - low)) // step) * step)
    start = min(max(0, int(np.floor(low / step)) * step), limit - length)
    return start, start + length


def _reach(end: int, limit: int, step: int) -> int:
    """Return `end`, or the even part of `limit` where that is less than a step further."""
    even = limit // 2 * 2
    return even if end > even - step else end


def _black(size: int) -> av.VideoFrame:
    canvas = av.VideoFrame(size, size, "yuv420p")
    for index, value in enumerate(_BLACK):
        plane_array(canvas, index)[:] = value
    canvas.colorspace = canvas.color_primaries = canvas.color_trc = canvas.color_range = 1
    return canvas
