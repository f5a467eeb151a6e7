"""Conversion of decoded frames to RGB or to BT.709 planes, at a given size and exact in colour.

A filter graph of FFmpeg converts planes between matrices. Scaling calls libswscale directly
(`VideoReformatter`): the `scale` filter wraps the same code, but each graph has one fixed size.
"""

import threading
from fractions import Fraction
from functools import lru_cache
from typing import Any

import av
import av.filter
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from preprocessing.decode.pixels.colour import SWSCALE_NAME, Colour, to_display_rgb
from preprocessing.decode.pixels.planes import EXACT, EXACT_SHARP, FULL, LIMITED, tag_709

# Matrices by the names of FFmpeg's `colorspace` filter.
_FILTER_NAME = {
    "601": "smpte170m", "709": "bt709", "2020": "bt2020ncl", "240m": "smpte240m", "fcc": "fcc",
}  # fmt: skip


def rgb_frame(rgb_HWC: np.ndarray) -> av.VideoFrame:
    """Wrap RGB uint8 [H, W, 3] as a frame."""
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


def rescale(
    frame: av.VideoFrame, colour: Colour, width: int, height: int, pixel_format: str, kernel: int
) -> av.VideoFrame:
    """Scale a frame by libswscale's `kernel`, keeping its matrix and range."""
    matrix: Any = SWSCALE_NAME[colour.matrix]
    value_range = FULL if colour.full_range else LIMITED
    return VideoReformatter().reformat(
        frame,
        width=width,
        height=height,
        format=pixel_format,
        src_colorspace=matrix,
        dst_colorspace=matrix,
        src_color_range=value_range,
        dst_color_range=value_range,
        interpolation=kernel,
        threads=1,
    )


def to_rgb(
    frame: av.VideoFrame, colour: Colour, width: int, height: int, kernel: int
) -> np.ndarray:
    """Scale by `kernel` and convert to RGB uint8 [height, width, 3] for display, before rotation.

    Scaling happens in YCbCr and conversion after it, at the target size: in one step libswscale
    takes three times as long for the same pixels.
    """
    if (width, height) != (frame.width, frame.height) and colour.matrix != "rgb":
        planar = "yuv420p" if frame.format.components[0].bits == 8 else "yuv444p16le"
        frame = rescale(frame, colour, width, height, planar, kernel)
    matrix: Any = SWSCALE_NAME[colour.matrix]
    out = VideoReformatter().reformat(
        frame,
        width=width,
        height=height,
        format="rgb24" if colour.is_display_ready else "rgb48le",
        src_colorspace=matrix,
        src_color_range=FULL if colour.full_range else LIMITED,
        dst_color_range=FULL,
        interpolation=EXACT_SHARP,
        threads=1,
    )
    image = out.to_ndarray()
    return image if colour.is_display_ready else to_display_rgb(image, colour)


def to_yuv709(frame: av.VideoFrame, colour: Colour, width: int, height: int) -> av.VideoFrame:
    """Scale an SDR YCbCr frame and convert it to yuv420p, BT.709 limited range, without RGB."""
    out = rescale(frame, colour, width, height, "yuv420p", Interpolation.BICUBIC | EXACT)
    if colour.matrix != "709" or colour.full_range:
        graph = _bt709_graph(width, height, colour.matrix, colour.full_range, threading.get_ident())
        graph.vpush(out)
        out = graph.vpull()
    return tag_709(out)


@lru_cache(maxsize=8)
def _bt709_graph(
    width: int, height: int, matrix: str, full_range: bool, thread: int
) -> av.filter.Graph:
    """Return this thread's graph that converts yuv420p planes to BT.709 limited range.

    The filter is exact to half a level, the same on every processor, and eight times as fast as
    libswscale's conversion between matrices.
    """
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=width,
        height=height,
        format=av.VideoFormat("yuv420p"),
        time_base=Fraction(1, 25),
    )
    convert = graph.add(
        "colorspace",
        f"ispace={_FILTER_NAME[matrix]}:irange={'pc' if full_range else 'tv'}:iprimaries=bt709:"
        "itrc=bt709:all=bt709:range=tv:format=yuv420p",
    )
    sink = graph.add("buffersink")
    source.link_to(convert)
    convert.link_to(sink)
    graph.configure()
    return graph
