"""Reasons why a source, or a span of one, could not be decoded."""

from dataclasses import dataclass
from typing import Literal, get_args

Reason = Literal[
    # the path itself
    "missing",  # nothing at this path
    "not_a_file",  # a folder, pipe, socket or device
    "permission",  # the operating system refuses to read it
    "changed",  # the file differs from the one the job was planned with
    "empty",  # zero bytes
    # the content
    "not_video",  # not a video container
    "no_video_stream",  # a container with only audio, subtitles or cover art
    "no_frames",  # a video stream from which no frame decodes
    "truncated",  # the container declares bytes that are missing
    "corrupt",  # bytes that the decoder rejects
    "too_large",  # more pixels or streams than the limits allow
    "unsupported",  # a codec, colour model or feature that this build or backend decodes wrongly
    # the process that decodes it
    "timeout",  # no progress, or not done, within the limit
    "crash",  # the decoding process died
    "memory",  # more memory than the limit allows
    "error",  # an unexpected exception: a defect of this project
]

REASONS: tuple[str, ...] = get_args(Reason)


class DecodeError(Exception):
    """A source that yields no frames, with its reason and one line of detail."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = " ".join(detail.split())

    def __reduce__(self) -> tuple[type["DecodeError"], tuple[str, str]]:
        """Pickle by reason and detail, so that the error passes between processes."""
        return (type(self), (self.reason, self.detail))


class BackendRefusalError(DecodeError):
    """This backend is known to return wrong frames for this kind of source; `pyav` decodes it."""


@dataclass(frozen=True)
class DamagedSpan:
    """A span of a source that did not decode; the frames around it did."""

    # Seconds on the source's own timeline; the end is the start of the next clean frame.
    start_s: float
    end_s: float
    # Same reasons as for whole sources.
    reason: Reason
    # One line of detail.
    detail: str = ""
