"""Opens a source with the decoder asked for, or with the reference where that would err."""

from typing import Literal

from preprocessing.decode.failure import BackendRefusalError
from preprocessing.decode.pyav.reader import PyavReader
from preprocessing.decode.reader import VideoReader
from preprocessing.decode.source import DecodeLimits, Source

Backend = Literal["pyav", "decord", "torchcodec"]


def open_video(
    source: Source,
    backend: Backend = "pyav",
    *,
    limits: DecodeLimits | None = None,
    fall_back: bool = False,
) -> VideoReader:
    """Open a path, URL, bytes or binary stream for decoding.

    Raises DecodeError with its reason for a source that yields nothing, and BackendRefusalError
    where `backend` cannot be right on this source; with `fall_back` the reference, pyav, takes
    over instead.
    """
    if backend == "pyav":
        return PyavReader(source, limits)
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
