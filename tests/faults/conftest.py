"""Lets the tests of this folder import its modules, and writes the broken videos once."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from hostile_corpus import Entry, write_corpus


@pytest.fixture(scope="session")
def hostile_corpus_entries(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    """The whole corpus, written once a session."""
    return write_corpus(tmp_path_factory.mktemp("hostile"))
