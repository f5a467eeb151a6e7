"""Decodes videos to frames, exact in time, colour and orientation, or reports why it cannot."""

from preprocessing.decode.backends import Backend, open_video, require_backend
from preprocessing.decode.clip import decode_clip
from preprocessing.decode.failure import (
    REASONS,
    BackendRefusalError,
    DamagedSpan,
    DecodeError,
    Reason,
)
from preprocessing.decode.frame import Frame
from preprocessing.decode.reader import VideoInfo, VideoReader
from preprocessing.decode.resample import Tick, resample
from preprocessing.decode.source import DecodeLimits

__all__ = [
    "REASONS",
    "Backend",
    "BackendRefusalError",
    "DamagedSpan",
    "DecodeError",
    "DecodeLimits",
    "Frame",
    "Reason",
    "Tick",
    "VideoInfo",
    "VideoReader",
    "decode_clip",
    "open_video",
    "require_backend",
    "resample",
]
