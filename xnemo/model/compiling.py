"""Checking that torch.compile works on this machine before a network is compiled."""

from functools import lru_cache

import torch

from preprocessing.errors import UserError


@lru_cache
def require_compiling(device: str) -> None:
    """Compile a trivial function on `device`, "cpu" or "cuda", once per process.

    torch.compile requires a C++ compiler, Python's headers, Triton and paths without spaces, but
    fails only at the first forward pass, with a very long message.

    Raises:
        UserError: Compilation fails; contains the compiler's error.
    """
    try:
        torch.compile(_probe)(torch.ones(8, device=device))
    except (RuntimeError, ImportError, OSError) as error:
        raise UserError(
            f"torch.compile does not work on this machine's {device}: {_gist(error)}",
            _remedy(),
        ) from error


def _probe(x: torch.Tensor) -> torch.Tensor:
    return x * 2 + 1


def _remedy() -> str:
    if " " in torch.__file__:
        return (
            f"torch is installed in a path with a space ({torch.__file__}), which it does not quote"
            " for the compiler: move the environment, or disable compilation"
        )
    return "install what is missing, or disable compilation"


def _gist(error: Exception) -> str:
    """Return the line of the compiler's output that contains the error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # The output of a compiler follows its command line, warnings first.
    if "Output:" in lines[:-1]:
        lines = lines[lines.index("Output:") + 1 :]
        lines = [line for line in lines if "error:" in line or "cannot find" in line] or lines
    return lines[0] if lines else type(error).__name__
