"""Why a source, or a part of one, could not be decoded: a closed vocabulary."""

from dataclasses import dataclass
from typing import Literal, get_args

Reason = Literal[
    # the path itself
    "missing",  # nothing at this path
    "not_a_file",  # a folder, pipe, socket or device
    "permission",  # the operating system refuses to read it
    "changed",  # something else lies there than when the job was planned
    "empty",  # zero bytes
    # the content
    "not_video",  # no container that holds moving pictures
    "no_video_stream",  # a container, but only sound, subtitles or a cover picture
    "no_frames",  # a video stream from which not one picture decodes
    "truncated",  # the container promises bytes that are not there
    "corrupt",  # bytes that the decoder rejects
    "too_large",  # more pixels or streams than the limits allow
    "unsupported",  # a codec, colour model or feature this build, or this backend, cannot get right
    # the process that decodes it
    "timeout",  # no progress, or no end, within the limit
    "crash",  # the decoding process died
    "memory",  # more memory than the limit allows
    "error",  # a defect of ours: an exception that nothing foresaw
]

REASONS: tuple[str, ...] = get_args(Reason)


class DecodeError(Exception):
    """A source that yields nothing, with its reason; `detail` is one line for a person."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = " ".join(detail.split())

    def __reduce__(self) -> tuple[type["DecodeError"], tuple[str, str]]:
        """Rebuild from reason and detail, so that the error survives the trip between processes."""
        return (type(self), (self.reason, self.detail))


class BackendRefusalError(DecodeError):
    """The source may be fine, but this backend is known to return wrong frames for its kind.

    The caller falls back to the reference backend, `pyav`.
    """


@dataclass(frozen=True)
class DamagedSpan:
    """A stretch of a source that did not decode; the frames around it did."""

    # Seconds on the source's own time line; end is where the next clean frame begins.
    start_s: float
    end_s: float
    # Why, from the same vocabulary as whole sources.
    reason: Reason
    # One line for a person.
    detail: str = ""
