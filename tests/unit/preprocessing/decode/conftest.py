"""Lets the tests of this folder import `marked_video`, and makes each marked video once."""

import pytest
from marked_video import KINDS, MarkedVideo


@pytest.fixture(scope="session")
def marked(tmp_path_factory: pytest.TempPathFactory):
    """A function from a kind's name to its video, written on first use."""
    folder = tmp_path_factory.mktemp("marked")
    made: dict[str, MarkedVideo] = {}

    def get(kind: str) -> MarkedVideo:
        if kind not in made:
            made[kind] = KINDS[kind](folder)
        return made[kind]

    return get
