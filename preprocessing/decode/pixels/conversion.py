"""From a decoder's pixels to RGB or to BT.709 planes, at the size asked for and exact in colour."""

from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from preprocessing.decode.pixels.colour import SWSCALE_NAME, Colour, to_display_rgb
from preprocessing.decode.pixels.planes import (
    EXACT,
    EXACT_SHARP,
    FULL,
    LIMITED,
    plane_array,
    tag_709,
)
from preprocessing.decode.pixels.to_bt709 import planes_to_bt709


def rgb_frame(rgb_HWC: np.ndarray) -> av.VideoFrame:
    """Wrap RGB uint8 [H, W, 3] as a frame of its own pixels."""
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb_HWC), format="rgb24")


def rgb_to_yuv709(rgb_HWC: np.ndarray) -> av.VideoFrame:
    """Convert RGB uint8 [H, W, 3] (even sides) to yuv420p, BT.709 matrix, limited range."""
    out = VideoReformatter().reformat(
        rgb_frame(rgb_HWC),
        format="yuv420p",
        dst_colorspace="itu709",  # type: ignore[arg-type]
        src_color_range=FULL,
        dst_color_range=LIMITED,
        interpolation=Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INP | EXACT,
        threads=1,
    )
    return tag_709(out)


def to_rgb(
    frame: av.VideoFrame, colour: Colour, width: int, height: int, kernel: int
) -> np.ndarray:
    """Scale by `kernel` and convert to display-ready RGB uint8 [height, width, 3], not yet turned.

    Scaling happens in YCbCr and conversion after it, at the target size: done in one step,
    libswscale takes three times as long for the same pixels.
    """
    value_range = FULL if colour.full_range else LIMITED
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
        dst_color_range=FULL,
        interpolation=EXACT_SHARP,
        threads=1,
    )
    picture = out.to_ndarray()
    return picture if colour.is_display_ready else to_display_rgb(picture, colour)


def to_yuv709(frame: av.VideoFrame, colour: Colour, width: int, height: int) -> av.VideoFrame:
    """Scale an SDR YCbCr frame to yuv420p in BT.709 limited range, not by way of RGB."""
    value_range = FULL if colour.full_range else LIMITED
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
        interpolation=Interpolation.BICUBIC | EXACT,
        threads=1,
    )
    if colour.matrix != "709" or colour.full_range:
        luma, blue, red = (plane_array(out, index) for index in range(3))
        converted = planes_to_bt709(luma, blue, red, colour.matrix, colour.full_range)
        out = av.VideoFrame(width, height, "yuv420p")
        for index, plane in enumerate(converted):
            plane_array(out, index)[:] = plane
    return tag_709(out)
