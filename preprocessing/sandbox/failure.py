"""Failure of isolated work."""

from dataclasses import dataclass

from preprocessing.decode.failure import REASONS, Reason


@dataclass(frozen=True)
class Failure:
    """Why isolated work ended early. Falsy, so that `if result:` tests for success."""

    # "timeout", "memory", "crash", "error", or the reason of a DecodeError raised in the child.
    reason: Reason
    # One line: the limit, the signal, or the exception.
    detail: str
    # The child's traceback where the reason is "error", else empty.
    traceback: str = ""
    # Last progress reported by the work; see `heartbeat`.
    reached: int | None = None

    def __bool__(self) -> bool:
        return False


def failure_of(error: BaseException, traceback: str) -> Failure:
    """Return the failure for an exception: by its `reason` where it has one, else a defect."""
    detail = " ".join(str(error).split()) or type(error).__name__
    reason = getattr(error, "reason", None)
    if isinstance(reason, str) and reason in REASONS:
        return Failure(reason, getattr(error, "detail", detail))  # type: ignore[arg-type]
    if isinstance(error, MemoryError):
        return Failure("memory", detail)
    return Failure("error", f"{type(error).__name__}: {detail}", traceback)
