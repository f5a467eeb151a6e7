"""Names of files being written, and whether their writers are still alive."""

import os
import socket
import time
import uuid
from pathlib import Path

#: Part of the name of a file being written; readers and listings skip it.
UNFINISHED = ".unfinished-"

# Files of other machines count as abandoned after a day.
_FORGOTTEN_S = 86400.0


def unfinished_name() -> str:
    """Return a new name for a file being written; it identifies the writing process."""
    pid = os.getpid()
    writer = f"{socket.gethostname()}-{pid}-{_start_of(pid)}"
    return f"{UNFINISHED}{writer}-{uuid.uuid4().hex[:12]}"


def is_abandoned(path: Path) -> bool:
    """Return whether the writer of a file with an unfinished name is gone."""
    words = path.name.removeprefix(UNFINISHED).rsplit("-", 3)
    if len(words) == 4 and words[0] == socket.gethostname() and words[1].isdigit():
        return words[2] != str(_start_of(int(words[1])))
    return time.time() - path.stat().st_mtime > _FORGOTTEN_S


def _start_of(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None where it has ended.

    A process id alone may have been reused, or belong to a zombie.
    """
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if words[0] in "ZX" else int(words[19])
