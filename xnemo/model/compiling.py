"""Whether torch.compile works on this machine, found out before a network is handed to it."""

from functools import lru_cache

import torch

from preprocessing.errors import UserError


@lru_cache
def require_compiling(device: str) -> None:
    """Compile a sum on ``device``, "cpu" or "cuda", once in a process.

    What torch.compile needs (a C++ compiler, Python's headers, Triton, folders without a space) is
    asked for at the first forward pass only, and its absence is told in pages.

    Raises:
        UserError: it cannot be done here; names what the compiler said.
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
            f"torch lies in a path with a space ({torch.__file__}), which it does not quote for "
            "the compiler: put the environment elsewhere, or leave compiling off"
        )
    return "install what is missing, or leave compiling off"


def _gist(error: Exception) -> str:
    """Return the line of the compiler's report that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # A compiler that ran has its say below its command line, warnings first.
    if "Output:" in lines[:-1]:
        lines = lines[lines.index("Output:") + 1 :]
        lines = [line for line in lines if "error:" in line or "cannot find" in line] or lines
    return lines[0] if lines else type(error).__name__
