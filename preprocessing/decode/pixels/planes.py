"""Planes of decoded frames as arrays: viewed, cropped, unpacked and rotated without RGB."""

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from preprocessing.decode.pixels.orientation import Orientation

# BITEXACT and ACCURATE_RND make libswscale's results equal on all processors.
EXACT = Interpolation.ACCURATE_RND | Interpolation.BITEXACT
EXACT_SHARP = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | EXACT
LIMITED, FULL = 1, 2


def plane_array(frame: av.VideoFrame, plane_index: int, bytes_per_sample: int = 1) -> np.ndarray:
    """Return plane `plane_index` as a view [rows, bytes of a row], without the row padding."""
    plane = frame.planes[plane_index]
    samples = np.frombuffer(memoryview(plane), dtype=np.uint8)
    rows = samples.reshape(plane.height, abs(plane.line_size))
    view = rows[:, : plane.width * bytes_per_sample]
    return view[::-1] if plane.line_size < 0 else view


def cut_planes(frame: av.VideoFrame, x0: int, y0: int, x1: int, y1: int) -> av.VideoFrame:
    """Copy a box (even integers, inside the frame) of a YCbCr frame into a new planar frame."""
    layout = frame.format
    one_plane_each = len(frame.planes) == len(layout.components)
    odd_chroma = len(layout.components) > 1 and layout.chroma_width(4) == 1
    if layout.has_palette or layout.is_bit_stream or odd_chroma or not one_plane_each:
        frame = unpacked(frame)
        layout = frame.format
    if (x0, y0, x1, y1) == (0, 0, frame.width, frame.height):
        return frame
    cut = av.VideoFrame(x1 - x0, y1 - y0, layout.name)
    bytes_per_sample = (layout.components[0].bits + 7) // 8
    for index, component in enumerate(layout.components):
        step_x = 2 if component.is_chroma and layout.chroma_width(2) == 1 else 1
        step_y = 2 if component.is_chroma and layout.chroma_height(2) == 1 else 1
        target = plane_array(cut, index, bytes_per_sample)
        rows = plane_array(frame, index, bytes_per_sample)[y0 // step_y : -(-y1 // step_y)]
        start = x0 // step_x * bytes_per_sample
        target[:] = rows[:, start : start + target.shape[1]]
    cut.colorspace, cut.color_range = frame.colorspace, frame.color_range
    cut.color_trc, cut.color_primaries = frame.color_trc, frame.color_primaries
    return cut


def unpacked(frame: av.VideoFrame) -> av.VideoFrame:
    """Convert other layouts (NV12, YUYV, P010, 4:1:1) losslessly to planar 4:4:4."""
    deep = frame.format.components[0].bits > 8
    return VideoReformatter().reformat(
        frame, format="yuv444p16le" if deep else "yuv444p", interpolation=EXACT_SHARP, threads=1
    )


def rotate_planes(frame: av.VideoFrame, orientation: Orientation) -> av.VideoFrame:
    """Rotate and mirror a BT.709 yuv420p frame for display."""
    if not (orientation.transpose or orientation.flip_x or orientation.flip_y):
        return frame
    rotated = [orientation.apply(plane_array(frame, index)) for index in range(3)]
    height, width = rotated[0].shape
    out = av.VideoFrame(width, height, "yuv420p")
    for index, plane in enumerate(rotated):
        plane_array(out, index)[:] = plane
    return tag_709(out)


def tag_709(frame: av.VideoFrame) -> av.VideoFrame:
    """Mark a frame as BT.709 limited range, in place, and return it."""
    frame.colorspace = frame.color_primaries = frame.color_trc = 1
    frame.color_range = LIMITED
    return frame
