"""What several fault tests need: the broken videos, and disks that are soon full."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hostile_corpus import Entry, write_corpus


@pytest.fixture(scope="session")
def hostile_corpus_entries(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    """The whole corpus, written once a session."""
    return write_corpus(tmp_path_factory.mktemp("hostile"))


@pytest.fixture
def mount_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Call with a number of bytes for a file system of its own with that much room.

    Skips where mounting one is not allowed.
    """
    with ExitStack() as stack:

        def mount(size: int) -> Path:
            folder = tmp_path / "disk"
            folder.mkdir()
            command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
            try:
                done = subprocess.run(command, capture_output=True, check=False)
            except FileNotFoundError:
                pytest.skip("there is no mount command")
            if done.returncode:
                pytest.skip("mounting a small file system is not allowed here")
            stack.callback(subprocess.run, ["umount", "-l", str(folder)], check=False)
            return folder

        yield mount
