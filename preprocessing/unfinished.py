"""Names of files that are being written, and whether their writers are still alive."""

import os
import socket
import time
import uuid
from pathlib import Path

import psutil

#: A name with this in it is being written; readers and listings never see it.
UNFINISHED = ".unfinished-"

# Another machine's process may be alive; a day later it is not.
_FORGOTTEN_S = 86400.0


def unfinished_name() -> str:
    """Return a new name for a file that is being written; it says by whom."""
    return f"{UNFINISHED}{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"


def is_abandoned(path: Path) -> bool:
    """Tell whether nobody will finish the file with this unfinished name."""
    host, _, rest = path.name.removeprefix(UNFINISHED).rpartition("-")[0].rpartition("-")
    if host == socket.gethostname() and rest.isdigit():
        return not psutil.pid_exists(int(rest))
    return time.time() - path.stat().st_mtime > _FORGOTTEN_S
