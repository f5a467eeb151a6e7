"""One decoded frame, converted to RGB only where needed, at the size that is requested."""

from dataclasses import dataclass, field
from functools import cached_property

import av
import numpy as np
from av.video.reformatter import Interpolation
from PIL import Image

from preprocessing.decode.pixels.colour import Colour, colour_of
from preprocessing.decode.pixels.conversion import (
    rescale,
    rgb_frame,
    rgb_to_yuv709,
    to_rgb,
    to_yuv709,
)
from preprocessing.decode.pixels.orientation import Box, Orientation
from preprocessing.decode.pixels.planes import (
    EXACT,
    EXACT_SHARP,
    cut_planes,
    plane_array,
    rotate_planes,
)

# Averages the source pixels under each target pixel: suits shrinking, and is faster than a kernel.
_SHRINK = Interpolation.AREA | EXACT
_LIMITED_TO_FULL = np.clip(np.rint((np.arange(256) - 16) * 255 / 219), 0, 255).astype(np.uint8)
# Largest output side; libswscale fails beyond it.
_LARGEST_SIDE = 16384
# Source pixels kept around a crop, so that interpolation reads the same pixels as in the frame.
_SURROUNDINGS = 16


@dataclass(eq=False)
class Frame:
    """A frame in the decoder's pixel format, with its time and orientation.

    All boxes and sizes are in displayed pixels: upright and square, after rotation tags and sample
    aspect. The pixels belong to the decoder's pool, so hold few frames at a time.
    """

    # The decoder's frame, usually planar YCbCr.
    video_frame: av.VideoFrame
    # Presentation time in microseconds on the source's timeline; may be negative.
    pts_us: int
    # Number among the source's frames, from 0.
    index: int
    # From coded to displayed pixels.
    orientation: Orientation = field(default_factory=Orientation)
    # Whether decoding can start here.
    key_frame: bool = False

    @property
    def width(self) -> int:
        """Displayed width in pixels."""
        return self._size[0]

    @property
    def height(self) -> int:
        """Displayed height in pixels."""
        return self._size[1]

    @cached_property
    def _size(self) -> tuple[int, int]:
        return self.orientation.displayed_size(self.video_frame.width, self.video_frame.height)

    @cached_property
    def colour(self) -> Colour:
        """Colour metadata; raises DecodeError("unsupported") for exotic matrices."""
        frame = self.video_frame
        return colour_of(
            matrix_code=frame.colorspace,
            range_code=frame.color_range,
            transfer_code=frame.color_trc,
            primaries_code=frame.color_primaries,
            is_rgb=frame.format.is_rgb or frame.format.name.startswith("pal"),
            format_name=frame.format.name,
            width=frame.width,
            height=frame.height,
        )

    def rgb(self) -> np.ndarray:
        """Return the whole frame as RGB uint8 [height, width, 3]."""
        stretched = self.orientation.displayed_size(self.video_frame.width, self.video_frame.height)
        if self.orientation.transpose:
            stretched = stretched[::-1]
        image = to_rgb(self.video_frame, self.colour, *stretched, EXACT_SHARP)
        return np.ascontiguousarray(self.orientation.apply(image))

    def rgb_scaled(self, max_side: int) -> np.ndarray:
        """Return the frame as RGB uint8, shrunk so that its longer side is at most `max_side`.

        Never enlarges. Meant for detectors: it scales in YCbCr by area averaging. A box found in
        the result scales by (width / W, height / H) of its shape.
        """
        across, down = self._scaled_size(max_side)
        image = to_rgb(self.video_frame, self.colour, across, down, _SHRINK)
        return np.ascontiguousarray(self.orientation.apply(image))

    def luma_scaled(self, max_side: int) -> np.ndarray:
        """Return luma alone, uint8 [h, w] in 0–255, shrunk to `max_side`; cheap."""
        across, down = self._scaled_size(max_side)
        colour = self.colour
        pixel_format = "gray" if colour.matrix == "rgb" else "yuv420p"
        small = rescale(self.video_frame, colour, across, down, pixel_format, _SHRINK)
        luma = plane_array(small, 0)
        if not colour.full_range:
            luma = _LIMITED_TO_FULL[luma]
        return np.ascontiguousarray(self.orientation.apply(luma))

    def rgb_crop(self, box: Box, size: int | tuple[int, int]) -> np.ndarray:
        """Return `box` (x0, y0, x1, y1) scaled to `size` (a side, or width, height) as RGB uint8.

        Parts of the box outside the frame are black. A box of even integers inside a frame with
        square pixels is cut from the planes; any other box is resampled, which is slower.
        """
        image = self._crop(box, _width_height(size), "rgb24")
        return np.ascontiguousarray(image.to_ndarray())

    def crop(self, box: Box, size: int | tuple[int, int]) -> av.VideoFrame:
        """Return `box` scaled to `size` (even) as yuv420p, BT.709 limited range, to encode.

        The same pixels as `rgb_crop`, without conversion to RGB where the source allows it.
        """
        return self._crop(box, _width_height(size), "yuv420p")

    def _scaled_size(self, max_side: int) -> tuple[int, int]:
        scale = min(1.0, max_side / max(self._size))
        width, height = (max(1, round(side * scale)) for side in self._size)
        return (height, width) if self.orientation.transpose else (width, height)

    def _crop(self, box: Box, size: tuple[int, int], pixel_format: str) -> av.VideoFrame:
        if not (box[2] > box[0] and box[3] > box[1]) or not 0 < max(size) <= _LARGEST_SIDE:
            raise ValueError(f"cannot crop box {box} to size {size}")
        frame = self.video_frame
        coded = self.orientation.coded_box(box, frame.width, frame.height)
        aligned = all(float(edge).is_integer() and int(edge) % 2 == 0 for edge in coded)
        inside = (
            coded[0] >= 0 and coded[1] >= 0 and coded[2] <= frame.width and coded[3] <= frame.height
        )
        colour = self.colour
        if not (aligned and inside and self.orientation.is_square) or colour.matrix == "rgb":
            return self._crop_resampled(box, size, pixel_format)
        across, down = size[::-1] if self.orientation.transpose else size
        cut = cut_planes(frame, *(int(edge) for edge in coded))
        if pixel_format == "yuv420p" and colour.is_display_ready:
            return rotate_planes(to_yuv709(cut, colour, across, down), self.orientation)
        image = self.orientation.apply(to_rgb(cut, colour, across, down, EXACT_SHARP))
        return rgb_frame(image) if pixel_format == "rgb24" else rgb_to_yuv709(image)

    def _crop_resampled(self, box: Box, size: tuple[int, int], pixel_format: str) -> av.VideoFrame:
        """Crop any box: RGB of its surroundings, then Pillow's sub-pixel resize."""
        across, down = size
        x0, y0, x1, y1 = box
        per_x, per_y = (x1 - x0) / across, (y1 - y0) / down
        # Region of the output that the frame covers.
        left, right = _covered(x0, per_x, across, self.width)
        top, bottom = _covered(y0, per_y, down, self.height)
        canvas = np.zeros((down, across, 3), dtype=np.uint8)
        if right > left and bottom > top:
            seen = (
                max(0.0, x0 + left * per_x),
                max(0.0, y0 + top * per_y),
                min(float(self.width), x0 + right * per_x),
                min(float(self.height), y0 + bottom * per_y),
            )
            image, origin_x, origin_y = self._rgb_around(seen)
            within = (
                seen[0] - origin_x,
                seen[1] - origin_y,
                seen[2] - origin_x,
                seen[3] - origin_y,
            )
            piece = Image.fromarray(image).resize(
                (right - left, bottom - top), Image.Resampling.BICUBIC, box=within
            )
            canvas[top:bottom, left:right] = np.asarray(piece)
        return rgb_frame(canvas) if pixel_format == "rgb24" else rgb_to_yuv709(canvas)

    def _rgb_around(self, box: Box) -> tuple[np.ndarray, int, int]:
        """Return unscaled RGB around `box`, and the displayed (x, y) of its top-left corner."""
        frame = self.video_frame
        if not self.orientation.is_square or self.colour.matrix == "rgb":
            return self.rgb(), 0, 0
        coded = self.orientation.coded_box(box, frame.width, frame.height)
        x0, y0 = (max(0, int(edge) // 2 * 2 - _SURROUNDINGS) for edge in coded[:2])
        # An odd last row or column shares its chroma sample, so the rest of that side is included.
        x1, y1 = (
            min(limit, -(-int(edge + 1) // 2) * 2 + _SURROUNDINGS)
            for edge, limit in zip(coded[2:], (frame.width, frame.height), strict=True)
        )
        cut = cut_planes(frame, x0, y0, x1, y1)
        image = np.ascontiguousarray(
            self.orientation.apply(to_rgb(cut, self.colour, x1 - x0, y1 - y0, EXACT_SHARP))
        )
        origin_x, origin_y = x0, y0
        if self.orientation.transpose:
            (x0, y0, x1, y1) = (y0, x0, y1, x1)
            origin_x, origin_y = x0, y0
        if self.orientation.flip_x:
            origin_x = self.width - x1
        if self.orientation.flip_y:
            origin_y = self.height - y1
        return image, origin_x, origin_y


def _covered(start: float, per_pixel: float, count: int, limit: int) -> tuple[int, int]:
    """Return the range [first, last) of `count` output pixels whose centres lie in 0..limit."""
    first = min(count, max(0, round(-start / per_pixel)))
    last = max(0, min(count, round((limit - start) / per_pixel)))
    return first, last


def frame_from_rgb(rgb_HWC: np.ndarray, pts_us: int, index: int, key_frame: bool = False) -> Frame:
    """Wrap upright RGB uint8 [H, W, 3] as a Frame, for decoders that return no planes."""
    return Frame(rgb_frame(rgb_HWC), pts_us=pts_us, index=index, key_frame=key_frame)


def _width_height(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
