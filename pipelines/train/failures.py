"""The one-line error of a training job whose workers failed."""

from pathlib import Path
from typing import Any

from preprocessing.errors import UserError

# Words of a worker whose error is only that another one is gone.
_SECONDARY = ("closed by peer", "gloo", "nccl", "connection reset")


def training_error(
    failures: list[dict[str, Any]], error: BaseException, max_failures: int, run_dir: Path
) -> UserError:
    """Return the error of the job and write all tracebacks to ``run_dir/failure.txt``.

    Args:
        failures: failures of workers, in order: rank, node, error, traceback.
        error: what Ray Train raised.
        max_failures: restarts that were allowed.
        run_dir: folder of the run.
    """
    report = run_dir / "failure.txt"
    report.write_text("\n\n".join([*(failure["traceback"] for failure in failures), str(error)]))
    cause = root_cause(failures)
    if cause is not None:
        what = f"worker {cause['rank']} on {cause['node']} failed: {cause['error']}"
    else:
        what = f"training failed: {_key_line(error)}"
    if max_failures > 0:
        what += f", the last of {max_failures + 1} starts"
    return UserError(
        what, f"details are in {report}; the same command resumes from the last checkpoint"
    )


def root_cause(failures: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the failure that caused the others.

    When one worker fails, the others fail in the collective they are waiting in.
    """
    primary = [
        failure
        for failure in failures
        if not any(word in failure["error"].lower() for word in _SECONDARY)
    ]
    return (primary or failures)[-1] if failures else None


def _key_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    key = [line for line in lines if "died" in line or "Error" in line]
    return (key or lines or [type(error).__name__])[-1]
