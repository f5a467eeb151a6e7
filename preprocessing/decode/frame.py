"""One decoded frame that turns into RGB only where, and at the size, it is asked to."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image

from preprocessing.decode.colour import SWSCALE_NAME, Colour, colour_of, to_display_rgb
from preprocessing.decode.orientation import Box, Orientation
from preprocessing.decode.to_bt709 import planes_to_bt709

# BITEXACT and ACCURATE_RND make libswscale's result the same on every processor.
_EXACT = Interpolation.ACCURATE_RND | Interpolation.BITEXACT
_SHARP = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | _EXACT
# Averages the source pixels under each target pixel: right for shrinking, and quicker than a
# kernel.
_SHRINK = Interpolation.AREA | _EXACT
_LIMITED, _FULL = 1, 2
_LIMITED_TO_FULL = np.clip(np.rint((np.arange(256) - 16) * 255 / 219), 0, 255).astype(np.uint8)
# Enlarges or shrinks at most this much: beyond it libswscale fails or a caller has made a mistake.
_LARGEST_SIDE = 16384
# Source pixels kept around a crop, so that its interpolation sees what the whole frame would show.
_SURROUNDINGS = 16


@dataclass(eq=False)
class Frame:
    """A frame in its decoder's own pixels, with a place on the time line.

    All boxes and sizes are in displayed pixels: upright and square, after rotation tags and sample
    aspect. The pixels belong to the decoder's pool: drop the frame when done, and do not hold many.
    """

    # The decoder's frame, usually planar YCbCr.
    video_frame: av.VideoFrame
    # Presentation time in microseconds on the source's time line; may be negative.
    pts_us: int
    # Position among the source's frames, from 0.
    index: int
    # How coded pixels lie on the screen.
    orientation: Orientation = field(default_factory=Orientation)
    # True where decoding can start.
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
        """What the frame's numbers mean; raises DecodeError("unsupported") for exotic matrices."""
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
        picture = _to_rgb(self.video_frame, self.colour, *stretched, _SHARP)
        return np.ascontiguousarray(self.orientation.turn(picture))

    def rgb_scaled(self, max_side: int) -> np.ndarray:
        """Return the frame as RGB uint8, shrunk so that its longer side is at most `max_side`.

        Never enlarges. Made for detectors: scaled while still YCbCr, with bilinear weights that
        cover every source pixel. A box found in it scales by (width / W, height / H) of its
        shape.
        """
        across, down = self._scaled_size(max_side)
        picture = _to_rgb(self.video_frame, self.colour, across, down, _SHRINK)
        return np.ascontiguousarray(self.orientation.turn(picture))

    def luma_scaled(self, max_side: int) -> np.ndarray:
        """Return brightness alone, uint8 [h, w] in 0–255, shrunk to `max_side`; cheap."""
        across, down = self._scaled_size(max_side)
        colour = self.colour
        matrix: Any = SWSCALE_NAME[colour.matrix]
        value_range = _FULL if colour.full_range else _LIMITED
        small = VideoReformatter().reformat(
            self.video_frame,
            width=across,
            height=down,
            format="gray" if colour.matrix == "rgb" else "yuv420p",
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=value_range,
            dst_color_range=value_range,
            interpolation=_SHRINK,
            threads=1,
        )
        luma = plane_array(small, 0)
        if not colour.full_range:
            luma = _LIMITED_TO_FULL[luma]
        return np.ascontiguousarray(self.orientation.turn(luma))

    def rgb_crop(self, box: Box, size: int | tuple[int, int]) -> np.ndarray:
        """Return `box` (x0, y0, x1, y1) scaled to `size` (a side, or width, height) as RGB uint8.

        Parts of the box outside the frame are black. A box of even integers inside a frame that
        is not stretched costs only its own pixels; any other box is resampled exactly, at a
        higher price.
        """
        picture = self._crop(box, _width_height(size), "rgb24")
        return np.ascontiguousarray(picture.to_ndarray())

    def crop(self, box: Box, size: int | tuple[int, int]) -> av.VideoFrame:
        """Return `box` scaled to `size` (even) as yuv420p, BT.709 limited range, to encode.

        The same pixels as `rgb_crop` without the trip through RGB where the source allows it.
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
        cut = _cut_planes(frame, *(int(edge) for edge in coded))
        if pixel_format == "yuv420p" and colour.is_display_ready:
            return _turn_planes(_to_yuv709(cut, colour, across, down), self.orientation)
        picture = self.orientation.turn(_to_rgb(cut, colour, across, down, _SHARP))
        return _wrap(picture, pixel_format)

    def _crop_resampled(self, box: Box, size: tuple[int, int], pixel_format: str) -> av.VideoFrame:
        """Crop any box exactly: RGB of its surroundings, then Pillow's sub-pixel resize."""
        across, down = size
        x0, y0, x1, y1 = box
        per_x, per_y = (x1 - x0) / across, (y1 - y0) / down
        # The part of the output that the frame covers, and the part of the frame that covers it.
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
            picture, origin_x, origin_y = self._rgb_around(seen)
            within = (
                seen[0] - origin_x,
                seen[1] - origin_y,
                seen[2] - origin_x,
                seen[3] - origin_y,
            )
            piece = Image.fromarray(picture).resize(
                (right - left, bottom - top), Image.Resampling.BICUBIC, box=within
            )
            canvas[top:bottom, left:right] = np.asarray(piece)
        return _wrap(canvas, pixel_format)

    def _rgb_around(self, box: Box) -> tuple[np.ndarray, int, int]:
        """Return unscaled RGB around `box`, with the displayed origin (x, y) of its corner."""
        frame = self.video_frame
        if not self.orientation.is_square or self.colour.matrix == "rgb":
            return self.rgb(), 0, 0
        coded = self.orientation.coded_box(box, frame.width, frame.height)
        x0, y0 = (max(0, int(edge) // 2 * 2 - _SURROUNDINGS) for edge in coded[:2])
        # An odd last row or column has no chroma pair of its own: take all of that side.
        x1, y1 = (
            min(limit, -(-int(edge + 1) // 2) * 2 + _SURROUNDINGS)
            for edge, limit in zip(coded[2:], (frame.width, frame.height), strict=True)
        )
        cut = _cut_planes(frame, x0, y0, x1, y1)
        picture = np.ascontiguousarray(
            self.orientation.turn(_to_rgb(cut, self.colour, x1 - x0, y1 - y0, _SHARP))
        )
        turned = self.orientation
        origin_x, origin_y = x0, y0
        if turned.transpose:
            (x0, y0, x1, y1) = (y0, x0, y1, x1)
            origin_x, origin_y = x0, y0
        if turned.flip_x:
            origin_x = self.width - x1
        if turned.flip_y:
            origin_y = self.height - y1
        return picture, origin_x, origin_y


def _covered(start: float, per_pixel: float, count: int, limit: int) -> tuple[int, int]:
    """Return the output pixels [first, last) of `count` whose centres fall inside 0..limit."""
    first = min(count, max(0, round(-start / per_pixel)))
    last = max(0, min(count, round((limit - start) / per_pixel)))
    return first, last


def frame_from_rgb(rgb_HWC: np.ndarray, pts_us: int, index: int, key_frame: bool = False) -> Frame:
    """Wrap upright RGB uint8 [H, W, 3] pixels, from a decoder that gives no planes, as a Frame."""
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb_HWC), format="rgb24")
    return Frame(picture, pts_us=pts_us, index=index, key_frame=key_frame)


def rgb_to_yuv709(rgb_HWC: np.ndarray) -> av.VideoFrame:
    """Convert RGB uint8 [H, W, 3] (even sides) to yuv420p, BT.709 matrix, limited range."""
    return _wrap(rgb_HWC, "yuv420p")


def _wrap(rgb_HWC: np.ndarray, pixel_format: str) -> av.VideoFrame:
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb_HWC), format="rgb24")
    if pixel_format == "rgb24":
        return picture
    out = VideoReformatter().reformat(
        picture,
        format="yuv420p",
        dst_colorspace="itu709",  # type: ignore[arg-type]
        src_color_range=_FULL,
        dst_color_range=_LIMITED,
        interpolation=Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INP | _EXACT,
        threads=1,
    )
    return _tag_709(out)


def _width_height(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _tag_709(frame: av.VideoFrame) -> av.VideoFrame:
    frame.colorspace = frame.color_primaries = frame.color_trc = 1
    frame.color_range = _LIMITED
    return frame


def _to_rgb(
    frame: av.VideoFrame, colour: Colour, width: int, height: int, kernel: int
) -> np.ndarray:
    """Scale by `kernel` and convert to display-ready RGB uint8 [height, width, 3], not yet turned.

    Scaling happens in YCbCr and conversion after it, at the target size: done in one step,
    libswscale takes three times as long for the same pixels.
    """
    value_range = _FULL if colour.full_range else _LIMITED
    matrix: Any = SWSCALE_NAME[colour.matrix]
    if (width, height) != (frame.width, frame.height) and colour.matrix != "rgb":
        frame = VideoReformatter().reformat(
            frame,
            width=width,
            height=height,
            format="yuv420p" if frame.format.components[0].bits == 8 else "yuv444p16le",
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=value_range,
            dst_color_range=value_range,
            interpolation=kernel,
            threads=1,
        )
    out = VideoReformatter().reformat(
        frame,
        width=width,
        height=height,
        format="rgb24" if colour.is_display_ready else "rgb48le",
        src_colorspace=matrix,
        src_color_range=value_range,
        dst_color_range=_FULL,
        interpolation=_SHARP,
        threads=1,
    )
    picture = out.to_ndarray()
    return picture if colour.is_display_ready else to_display_rgb(picture, colour)


def _to_yuv709(frame: av.VideoFrame, colour: Colour, width: int, height: int) -> av.VideoFrame:
    value_range = _FULL if colour.full_range else _LIMITED
    matrix: Any = SWSCALE_NAME[colour.matrix]
    out = VideoReformatter().reformat(
        frame,
        width=width,
        height=height,
        format="yuv420p",
        src_colorspace=matrix,
        dst_colorspace=matrix,
        src_color_range=value_range,
        dst_color_range=value_range,
        interpolation=Interpolation.BICUBIC | _EXACT,
        threads=1,
    )
    if colour.matrix != "709" or colour.full_range:
        luma, blue, red = (plane_array(out, index) for index in range(3))
        converted = planes_to_bt709(luma, blue, red, colour.matrix, colour.full_range)
        out = av.VideoFrame(width, height, "yuv420p")
        for index, plane in enumerate(converted):
            plane_array(out, index)[:] = plane
    return _tag_709(out)


def plane_array(frame: av.VideoFrame, plane_index: int, bytes_per_sample: int = 1) -> np.ndarray:
    """Return plane `plane_index` as a view [rows, bytes of a row], without the row padding."""
    plane = frame.planes[plane_index]
    samples = np.frombuffer(memoryview(plane), dtype=np.uint8)
    rows = samples.reshape(plane.height, abs(plane.line_size))
    view = rows[:, : plane.width * bytes_per_sample]
    return view[::-1] if plane.line_size < 0 else view


def _cut_planes(frame: av.VideoFrame, x0: int, y0: int, x1: int, y1: int) -> av.VideoFrame:
    """Copy the box (even integers, inside) of a planar YCbCr frame into a frame of its own."""
    layout = frame.format
    one_plane_each = len(frame.planes) == len(layout.components)
    odd_chroma = len(layout.components) > 1 and layout.chroma_width(4) == 1
    if layout.has_palette or layout.is_bit_stream or odd_chroma or not one_plane_each:
        frame = _unpacked(frame)
        layout = frame.format
    if (x0, y0, x1, y1) == (0, 0, frame.width, frame.height):
        return frame
    cut = av.VideoFrame(x1 - x0, y1 - y0, layout.name)
    bytes_per_sample = (layout.components[0].bits + 7) // 8
    for index, component in enumerate(layout.components):
        step_x = 2 if component.is_chroma and layout.chroma_width(2) == 1 else 1
        step_y = 2 if component.is_chroma and layout.chroma_height(2) == 1 else 1
        target = plane_array(cut, index, bytes_per_sample)
        rows = plane_array(frame, index, bytes_per_sample)[y0 // step_y : y1 // step_y]
        start = x0 // step_x * bytes_per_sample
        target[:] = rows[:, start : start + target.shape[1]]
    cut.colorspace, cut.color_range = frame.colorspace, frame.color_range
    cut.color_trc, cut.color_primaries = frame.color_trc, frame.color_primaries
    return cut


def _unpacked(frame: av.VideoFrame) -> av.VideoFrame:
    """Bring other layouts (NV12, YUYV, P010, 4:1:1) to planar 4:4:4, losing nothing."""
    deep = frame.format.components[0].bits > 8
    return VideoReformatter().reformat(
        frame, format="yuv444p16le" if deep else "yuv444p", interpolation=_SHARP, threads=1
    )


def _turn_planes(frame: av.VideoFrame, orientation: Orientation) -> av.VideoFrame:
    """Turn a yuv420p frame; its chroma grid is as symmetric as its luma grid."""
    if not (orientation.transpose or orientation.flip_x or orientation.flip_y):
        return frame
    turned = [np.ascontiguousarray(orientation.turn(plane_array(frame, i))) for i in range(3)]
    height, width = turned[0].shape
    out = av.VideoFrame(width, height, "yuv420p")
    for index, plane in enumerate(turned):
        plane_array(out, index)[:] = plane
    return _tag_709(out)
