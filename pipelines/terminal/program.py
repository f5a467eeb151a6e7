"""How a person calls the programs of this installation from where they are now."""

import os
import shlex
import shutil
import sys
from pathlib import Path


def as_called(command: str) -> str:
    """Return a command line that works in this shell: its program by path where the shell has none.

    After `make` the programs lie in `.venv/bin`, which only an activated environment searches.

    Args:
        command: begins with the bare name of a program, such as ``xnemo`` or ``mlflow``.
    """
    name, space, rest = command.partition(" ")
    # Not resolved: the environment's own folder, whatever its Python links to.
    own = Path(sys.executable).parent / name
    found = shutil.which(name)
    if not own.is_file() or (found and os.path.samefile(found, own)):
        return command
    near = os.path.relpath(own)
    if near.startswith(".."):
        near = str(own)
    elif os.sep not in near:
        near = os.path.join(".", near)
    return f"{shlex.quote(near)}{space}{rest}"
