"""Names of files that are being written, and whether their writers are still alive."""

import os
import socket
import time
import uuid
from pathlib import Path

#: A name with this in it is being written; readers and listings never see it.
UNFINISHED = ".unfinished-"

# Another machine's process may be alive; a day later it is not.
_FORGOTTEN_S = 86400.0


def unfinished_name() -> str:
    """Return a new name for a file that is being written; it says by whom."""
    pid = os.getpid()
    writer = f"{socket.gethostname()}-{pid}-{_start_of(pid)}"
    return f"{UNFINISHED}{writer}-{uuid.uuid4().hex[:12]}"


def is_abandoned(path: Path) -> bool:
    """Tell whether nobody will finish the file with this unfinished name."""
    words = path.name.removeprefix(UNFINISHED).rsplit("-", 3)
    if len(words) == 4 and words[0] == socket.gethostname() and words[1].isdigit():
        return words[2] != str(_start_of(int(words[1])))
    return time.time() - path.stat().st_mtime > _FORGOTTEN_S


def _start_of(pid: int) -> int | None:
    """Return when a process began, in clock ticks since the system did; None where it is over.

    A number alone may by now be another process's, or that of one that has ended and is still
    listed because nobody has asked what became of it.
    """
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if words[0] in "ZX" else int(words[19])
