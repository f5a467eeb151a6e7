"""Retries of storage operations after transient failures, and one line for those that stay."""

import contextlib
import errno
from collections.abc import Callable, Iterator
from typing import TypeVar

import tenacity

from preprocessing.errors import UserError, first_line

T = TypeVar("T")

_ATTEMPTS = 8
_FIRST_PAUSE_S = 0.05
# Errors that a second attempt cannot change.
_PERMANENT = {
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR,
    errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOSYS,
}  # fmt: skip
# Errors of the caller, not of the store.
_WRONG_CALLS = (
    AssertionError, AttributeError, ImportError, LookupError, NotImplementedError, TypeError,
    UserError, ValueError,
)  # fmt: skip
_FULL = {errno.ENOSPC, errno.EDQUOT}
# Words of servers that know only the S3 of before 2025, whose clients sent no checksums.
_CHECKSUM_WORDS = (
    "checksum", "crc32", "content-sha256", "contentsha256", "trailer", "content-length",
    "contentlength", "content length", "not implemented",
)  # fmt: skip

# The words of S3 and Google Cloud Storage.
_NO_BUCKET = "bucket does not exist"


class StoreFullError(OSError):
    """The store has no space left; the file being written is not visible."""


class StoreError(UserError, OSError):
    """A remote store does not do what it is asked to."""


def retry(action: Callable[[], T], url: str) -> T:
    """Call `action`, up to 8 times with exponential backoff while it fails with transient errors.

    Args:
        action: a call of a remote store.
        url: what it is about, for the message.

    Raises:
        FileNotFoundError: there is no such object.
        StoreError: the last other failure, with what mends it.
        OSError: the store is full.
    """
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(_ATTEMPTS),
        wait=tenacity.wait_exponential(multiplier=_FIRST_PAUSE_S),
        retry=tenacity.retry_if_exception(_is_transient),
        reraise=True,
    )
    try:
        return retrying(action)
    except _WRONG_CALLS:
        raise
    except Exception as error:
        is_full = isinstance(error, OSError) and error.errno in _FULL
        is_missing = isinstance(error, FileNotFoundError) and _NO_BUCKET not in str(error)
        if is_full or is_missing:
            raise
        raise _told(error, url) from error


def _told(error: Exception, url: str) -> StoreError:
    """Return the error of a store's client as what is wrong and how to mend it."""
    text = (getattr(error, "strerror", None) or first_line(error)).rstrip(".")
    if not isinstance(error, OSError):
        text = f"{type(error).__name__}: {text}"
    words = text.lower()
    is_s3 = url.startswith(("s3:", "s3a:"))
    remedy = "check the URL and the connection"
    if is_s3 and any(word in words for word in _CHECKSUM_WORDS):
        remedy = (
            "if the store is not AWS, set AWS_REQUEST_CHECKSUM_CALCULATION=when_required and "
            "AWS_RESPONSE_CHECKSUM_VALIDATION=when_required"
        )
    elif isinstance(error, PermissionError) or "credentials" in words:
        remedy = "check the credentials and what they allow"
        if is_s3:
            remedy += " (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or AWS_PROFILE)"
    elif _NO_BUCKET in text:
        remedy = "create the bucket, or correct its name"
    elif is_s3:
        remedy += ", and AWS_ENDPOINT_URL where the store is not AWS"
    return StoreError(f"{url}: {text}", remedy)


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, _WRONG_CALLS):
        return False
    if isinstance(error, OSError):
        missing_or_forbidden = isinstance(error, FileNotFoundError | PermissionError)
        return error.errno not in _PERMANENT and not missing_or_forbidden
    # Clients of object stores raise classes of their own for a busy server.
    return isinstance(error, Exception) and "Credentials" not in type(error).__name__


@contextlib.contextmanager
def reraise_when_full(path: str, root: str) -> Iterator[None]:
    """Turn the system's error for a full disk into StoreFullError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL and not isinstance(error, StoreFullError):
            raise StoreFullError(error.errno, f"no space left in {root}", path) from error
        raise
