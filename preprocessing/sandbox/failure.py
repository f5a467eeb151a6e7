"""What became of isolated work that gave no result."""

from dataclasses import dataclass

from preprocessing.decode.failure import REASONS, Reason


@dataclass(frozen=True)
class Failure:
    """Why isolated work ended early. Falsy, so `if result:` reads as it should."""

    # "timeout", "memory", "crash", "error", or the reason carried by a DecodeError raised in the
    # child.
    reason: Reason
    # One line for a person: the limit, the signal, or the exception.
    detail: str
    # The child's traceback for the reason "error", else empty.
    traceback: str = ""
    # The last that the work said of how far it had come; see `heartbeat`.
    reached: int | None = None

    def __bool__(self) -> bool:
        return False


def failure_of(error: BaseException, traceback: str) -> Failure:
    """Describe an exception by its own `reason` where it has one, else as a defect."""
    detail = " ".join(str(error).split()) or type(error).__name__
    reason = getattr(error, "reason", None)
    if isinstance(reason, str) and reason in REASONS:
        return Failure(reason, getattr(error, "detail", detail))  # type: ignore[arg-type]
    if isinstance(error, MemoryError):
        return Failure("memory", detail)
    return Failure("error", f"{type(error).__name__}: {detail}", traceback)
