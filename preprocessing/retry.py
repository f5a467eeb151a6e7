"""Retries of storage operations after transient failures."""

import contextlib
import errno
from collections.abc import Callable, Iterator
from typing import TypeVar

import tenacity

from preprocessing.errors import UserError

T = TypeVar("T")

_ATTEMPTS = 8
_FIRST_PAUSE_S = 0.05
# Errors that a second attempt cannot change.
_PERMANENT = {
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR,
    errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT,
}  # fmt: skip
# Errors of the caller, not of the store.
_WRONG_CALLS = (
    AssertionError, AttributeError, ImportError, LookupError, NotImplementedError, TypeError,
    UserError, ValueError,
)  # fmt: skip
_FULL = {errno.ENOSPC, errno.EDQUOT}


class StoreFullError(OSError):
    """The store has no space left; the file being written is not visible."""


def retry(action: Callable[[], T]) -> T:
    """Call `action`, up to 8 times with exponential backoff while it fails with transient errors.

    Raises:
        OSError: The last failure; other classes (of object-store clients) are wrapped in it.
    """
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(_ATTEMPTS),
        wait=tenacity.wait_exponential(multiplier=_FIRST_PAUSE_S),
        retry=tenacity.retry_if_exception(_is_transient),
        reraise=True,
    )
    try:
        return retrying(action)
    except (OSError, *_WRONG_CALLS):
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, OSError):
        missing_or_forbidden = isinstance(error, FileNotFoundError | PermissionError)
        return error.errno not in _PERMANENT and not missing_or_forbidden
    # Clients of object stores raise classes of their own for a busy server.
    return isinstance(error, Exception) and not isinstance(error, _WRONG_CALLS)


@contextlib.contextmanager
def reraise_when_full(path: str, root: str) -> Iterator[None]:
    """Turn the system's error for a full disk into StoreFullError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL and not isinstance(error, StoreFullError):
            raise StoreFullError(error.errno, f"no space left in {root}", path) from error
        raise
