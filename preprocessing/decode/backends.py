"""Opens a source with a named decoder, or with the reference decoder where that one would err."""

import importlib.util
from typing import Literal

from preprocessing.decode.failure import BackendRefusalError
from preprocessing.decode.pyav.reader import PyavReader
from preprocessing.decode.reader import VideoReader
from preprocessing.decode.source import DecodeLimits, Source
from preprocessing.errors import UserError

Backend = Literal["pyav", "decord", "torchcodec"]

# Optional backends and the extra of this package that installs each.
_EXTRAS = {"decord": "preprocess", "torchcodec": "torchcodec"}


def open_video(
    source: Source,
    backend: Backend = "pyav",
    *,
    limits: DecodeLimits | None = None,
    fall_back: bool = False,
) -> VideoReader:
    """Open a path, URL, bytes or binary stream for decoding.

    Args:
        source: What to open.
        backend: Decoder; `pyav` is the reference.
        limits: Bounds on what the source can make the decoder allocate.
        fall_back: Use `pyav` where `backend` refuses the source.

    Raises:
        DecodeError: The source yields no frames; its `reason` tells why.
        BackendRefusalError: `backend` would decode this source wrongly, and `fall_back` is off.
        UserError: `backend` is not installed.
    """
    if backend == "pyav":
        return PyavReader(source, limits)
    require_backend(backend)
    try:
        if backend == "decord":
            from preprocessing.decode.random_access.decord_reader import DecordReader

            return DecordReader(source, limits)
        from preprocessing.decode.random_access.torchcodec_reader import TorchcodecReader

        return TorchcodecReader(source, limits)
    except BackendRefusalError:
        if not fall_back:
            raise
        return PyavReader(source, limits)


def require_backend(backend: Backend) -> None:
    """Raise UserError, with the command that installs it, where `backend` is not installed."""
    if backend in _EXTRAS and importlib.util.find_spec(backend) is None:
        raise UserError(
            f"the decoder {backend} is not installed",
            f"run: pip install 'xnemo[{_EXTRAS[backend]}]', or use the decoder pyav",
        )
