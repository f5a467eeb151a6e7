"""Encodes clips to H.264, BT.709, with short GOPs and reproducible bytes."""

import io
from collections.abc import Iterable
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import av.container
import numpy as np

from preprocessing.config import EncodeConfig
from preprocessing.decode.pixels.conversion import rgb_to_yuv709
from preprocessing.decode.pixels.planes import plane_array
from preprocessing.encode.mp4_layout import index_first

# x264 writes 4:2:0, so sides must be even.
_SIDE_STEP = 2
_CPU = Path("/proc/cpuinfo")


def encode_clip(
    frames: Iterable[np.ndarray | av.VideoFrame],
    fps: float = 25.0,
    config: EncodeConfig | None = None,
    comment: str = "",
) -> bytes:
    """Encode RGB uint8 [H, W, 3] images, or frames from `Frame.crop`, to MP4 bytes.

    H.264 High, limited range, tagged BT.709, no B-frames, no audio, index in front. One encoder
    thread and no time stamps or version tags in the container, so that equal frames give equal
    bytes.

    Args:
        frames: Frames of one size with even sides.
        fps: Frame rate in Hz.
        config: Encoder settings.
        comment: Text for the file's metadata.

    Raises:
        ValueError: There are no frames, a side is odd, or the size changes.
    """
    config = config or EncodeConfig()
    rate = Fraction(fps).limit_denominator(1001)
    buffer = io.BytesIO()
    container = av.open(
        buffer,
        "w",
        format="mp4",
        container_options={"fflags": "+bitexact"},
    )
    if comment:
        container.metadata["comment"] = comment
    stream: av.VideoStream | None = None
    try:
        for number, image in enumerate(frames):
            frame = _as_yuv(image)
            if stream is None:
                stream = _add_stream(container, frame, rate, config)
            elif (frame.width, frame.height) != (stream.width, stream.height):
                raise ValueError(
                    f"frame {number} is {frame.width}×{frame.height}, the clip is "
                    f"{stream.width}×{stream.height}"
                )
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
        if stream is None:
            raise ValueError("a clip needs at least one frame")
        container.mux(stream.encode(None))
    finally:
        container.close()
    return index_first(buffer.getvalue())


def _as_yuv(image: np.ndarray | av.VideoFrame) -> av.VideoFrame:
    if isinstance(image, av.VideoFrame):
        if image.format.name != "yuv420p":
            raise ValueError(f"expected a yuv420p frame, got {image.format.name}")
        return _copy(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected RGB uint8 [H, W, 3], got {image.dtype} {image.shape}")
    if image.shape[0] % _SIDE_STEP or image.shape[1] % _SIDE_STEP:
        raise ValueError(f"sides must be even, got {image.shape[1]}×{image.shape[0]}")
    return rgb_to_yuv709(image)


def _copy(frame: av.VideoFrame) -> av.VideoFrame:
    """Copy only pixels: a decoder's frame also has captions and a type that the encoder uses."""
    copy = av.VideoFrame(frame.width, frame.height, "yuv420p")
    for index in range(3):
        plane_array(copy, index)[:] = plane_array(frame, index)
    return copy


def _add_stream(
    container: av.container.OutputContainer,
    frame: av.VideoFrame,
    rate: Fraction,
    config: EncodeConfig,
) -> av.VideoStream:
    stream = container.add_stream("libx264", rate=rate)
    stream.width, stream.height = frame.width, frame.height
    stream.pix_fmt = "yuv420p"
    stream.time_base = 1 / rate
    codec = stream.codec_context
    codec.thread_count = 1
    codec.color_primaries = codec.color_trc = codec.colorspace = 1
    codec.color_range = 1
    codec.options = {
        "preset": config.preset,
        # No arithmetic coding, no deblocking: a frame decodes in 0.45 ms instead of 1.02 (512
        # pixels, one core, 8 real clips), at 16.3 % of the bytes of JPEG quality 95 instead of 14.8
        # and 0.2 dB less. A clip is written once and decoded in every epoch.
        "tune": "fastdecode",
        "crf": f"{config.crf:g}",
        "profile": "high",
        "a53cc": "0",
        "x264-params": (
            f"keyint={config.gop}:min-keyint=1:open-gop=0:bframes=0:threads=1:lookahead-threads=1:"
            "sliced-threads=0:scenecut=40:rc-lookahead=12:nal-hrd=none:"
            f"{x264_vectors()}"
        ),
    }
    return stream


@cache
def x264_vectors() -> str:
    """Return the x264 parameter that limits its vector code, so that bytes are reproducible.

    Its AVX-512 code for the macroblock tree reads past the end of rows that are no multiple of 128
    pixels wide: the bytes then depend on earlier contents of that memory, and differ from those of
    CPUs without AVX-512. AVX2 and SSE4.2 agree with each other at every width, and with AVX-512 at
    multiples of 128 (measured with the x264 of PyAV 18).
    """
    try:
        has_avx512 = "avx512" in _CPU.read_text()
    except OSError:
        has_avx512 = False
    return "asm=avx2" if has_avx512 else "asm=auto"
