"""Which failures of a store may pass, and trying again until they have."""

import contextlib
import errno
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from preprocessing.errors import UserError

T = TypeVar("T")

_ATTEMPTS = 8
_FIRST_PAUSE_S = 0.05
# Errors that a second attempt cannot change.
_PERMANENT = {
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR,
    errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT,
}  # fmt: skip
# No failure of a store at all, but of the program.
_WRONG_CALLS = (
    AssertionError, AttributeError, ImportError, LookupError, NotImplementedError, TypeError,
    UserError, ValueError,
)  # fmt: skip
_FULL = {errno.ENOSPC, errno.EDQUOT}


class StoreFullError(OSError):
    """The place to write to has no space left; what was being written is not visible."""


def retry(action: Callable[[], T]) -> T:
    """Run an action again, with a growing pause, after failures that may pass; raise others.

    What does not pass is raised as it is where it is an OSError, else as one.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return action()
        except _WRONG_CALLS:
            raise
        except OSError as error:
            if error.errno in _PERMANENT or isinstance(error, FileNotFoundError | PermissionError):
                raise
            if attempt == _ATTEMPTS - 1:
                raise
        except Exception as error:
            # Clients of object stores raise classes of their own for a busy server.
            if attempt == _ATTEMPTS - 1:
                raise OSError(f"{type(error).__name__}: {error}") from error
        time.sleep(_FIRST_PAUSE_S * 2**attempt)
    raise AssertionError("unreachable")


@contextlib.contextmanager
def told_when_full(path: str, root: str) -> Iterator[None]:
    """Turn the system's word for a full disk into StoreFullError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL and not isinstance(error, StoreFullError):
            raise StoreFullError(error.errno, f"no space left in {root}", path) from error
        raise
