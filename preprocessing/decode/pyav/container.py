"""Opens containers with PyAV so that a hostile file reads no other files and stays in limits."""

import io
import math
from typing import BinaryIO

import av
import av.container
import av.error

from preprocessing.decode.failure import DecodeError, Reason
from preprocessing.decode.pyav.structure import container_family, missing_bytes
from preprocessing.decode.source import DecodeLimits, Source, check_path, local_path, open_bytes

# Containers of video. Playlists and scripts (HLS, DASH, concat, SDP) are excluded because they open
# other files and hosts and may never end; so are text and still images. Containers of audio are
# included, so that a song is reported as "no video stream" and not as "not video".
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,asf,asf_o,flv,live_flv,"
    "ogg,rm,mxf,mxf_opatom,gxf,nut,wtv,dv,gif,apng,h264,hevc,vvc,av1,obu,ivf,vc1,vc1test,mjpeg,"
    "yuv4mpegpipe,mp3,aac,flac,wav,amr,ac3,eac3,aiff,caf,ape,wv,tta,h263,h261,cavsvideo,dirac"
)


def open_container(
    source: Source, limits: DecodeLimits
) -> tuple[av.container.InputContainer, BinaryIO | None]:
    """Open `source`; return the container and its Python stream (None for a local path).

    Raises:
        DecodeError: The source cannot be opened; its `reason` tells why.
    """
    options = {"max_pixels": str(limits.max_pixels), "threads": "1"}
    return _open(source, limits, options, {})


def declared_size(source: Source, limits: DecodeLimits) -> tuple[int, int]:
    """Return the (width, height) in the header of the first video stream, or (0, 0).

    It opens without the pixel limit, which hides a size beyond it.
    """
    try:
        container, stream = _open(source, limits, {}, {"probesize": "32", "analyzeduration": "0"})
    except DecodeError:
        return (0, 0)
    with container:
        videos = container.streams.video
        size = (videos[0].width, videos[0].height) if videos else (0, 0)
    if stream is not None and stream is not source:
        stream.close()
    return size


def _open(
    source: Source,
    limits: DecodeLimits,
    options: dict[str, str],
    more_container_options: dict[str, str],
) -> tuple[av.container.InputContainer, BinaryIO | None]:
    path = local_path(source)
    stream: BinaryIO | None = None
    target: str | BinaryIO
    if path is not None and _is_plain(str(path)):
        check_path(path)
        # The prefix keeps names such as "concat:a|b" or "http:x" from selecting a protocol.
        target = f"file:{path}"
    else:
        target = stream = open_bytes(source)
    container_options = {
        "format_whitelist": _FORMATS,
        "protocol_whitelist": "file,crypto,data",
        "max_streams": str(limits.max_streams),
        **more_container_options,
    }
    try:
        container = av.open(
            target,
            "r",
            options=options,
            container_options=container_options,
            metadata_errors="replace",
            buffer_size=1 << 16,
        )
    except (av.error.FFmpegError, OSError, ValueError, MemoryError) as error:
        if stream is not None and stream is not source:
            stream.close()
        raise _explain(source, error) from error
    return container, stream


def _is_plain(path: str) -> bool:
    """Return whether FFmpeg accepts the path (valid UTF-8, no NUL)."""
    try:
        return "\0" not in path and bool(path.encode())
    except UnicodeEncodeError:
        return False


def _explain(source: Source, error: Exception) -> DecodeError:
    text = getattr(error, "strerror", None) or str(error)
    if isinstance(error, MemoryError):
        return DecodeError(
            "too_large", f"the container requires too much memory or too many streams: {text}"
        )
    if isinstance(error, av.error.PermissionError):
        return DecodeError("permission", text)
    with _peek(source) as stream:
        head = stream.read(64)
        family = container_family(head)
        reason: Reason
        if family is None:
            reason, detail = "not_video", f"no known video container ({text})"
        elif missing_bytes(stream, family):
            reason, detail = "truncated", f"a {family} file whose end is missing ({text})"
        else:
            reason, detail = "corrupt", f"a {family} file with a broken header ({text})"
    return DecodeError(reason, detail)


def _peek(source: Source) -> BinaryIO:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source)
    return open_bytes(source)


def seconds(value: float | None) -> float | None:
    """Return a header's duration in seconds, or None where it is absent, negative or absurd."""
    if value is None or not math.isfinite(value) or not 0 < value < 1e7:
        return None
    return float(value)
