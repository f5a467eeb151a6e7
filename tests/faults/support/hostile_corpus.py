"""Writes a folder of broken and odd videos, the same bytes every time, with what is to become of
each.

    entries = write_corpus(folder)                        # a moving astronaut
    entries = write_corpus(folder, base_video=path)       # a person's own talking head

Every file shows different pictures, so that none is the duplicate of another. `python
hostile_corpus.py FOLDER [VIDEO]` writes it to look at.
"""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import damage_kinds
import foreign_kinds
import odd_kinds
from footage import Footage, astronaut_footage, video_footage
from writing import Made

Outcome = Literal["healthy", "partly", "quarantined", "nothing"]


@dataclass(frozen=True)
class Entry:
    """One file of the corpus and what a right pipeline makes of it."""

    # Name of the kind, unique.
    kind: str
    path: Path
    # "healthy": all of it is kept. "partly": its clean seconds are kept and the rest is told.
    # "quarantined": nothing of it can be used, for one of `reasons`. "nothing": it is sound but
    # holds nothing to keep (one picture, a slide show), so it may neither give a clip nor be
    # quarantined.
    outcome: Outcome
    reasons: frozenset[str] = field(default_factory=frozenset)
    # For "healthy" and "partly": true stretches [start_s, end_s) that decode cleanly, from the
    # first frame of the file as time zero.
    clean: tuple[tuple[float, float], ...] = ()
    # Frames that decode, where that is known.
    frames: int | None = None

    @property
    def clean_s(self) -> float:
        """Seconds that decode cleanly."""
        return sum(end - start for start, end in self.clean)


_KINDS: dict[str, Callable[[Path, Footage], Made]] = {
    **odd_kinds.KINDS,
    **damage_kinds.KINDS,
    **foreign_kinds.KINDS,
}


def kinds() -> list[str]:
    """Names of all kinds, in the order they are written."""
    return list(_KINDS)


def write_corpus(
    folder: Path, base_video: Path | None = None, only: list[str] | None = None
) -> list[Entry]:
    """Write all kinds, or `only` some, into `folder` (made if absent) and return what they are."""
    folder.mkdir(parents=True, exist_ok=True)
    footage = astronaut_footage if base_video is None else video_footage(base_video)
    return [_write(kind, folder, footage) for kind in (only or kinds())]


def _write(kind: str, folder: Path, footage: Footage) -> Entry:
    # Seeds by place in the list, so that `only` gives the same bytes.
    seed = kinds().index(kind) * 1000

    def own_footage(extra: int, count: int, width: int = 256, height: int = 256) -> list:
        return footage(seed + extra, count, width, height)

    made = _KINDS[kind](folder, own_footage)
    return Entry(
        kind=kind,
        path=made.path,
        outcome=made.outcome,
        reasons=frozenset(made.reasons),
        clean=tuple(made.clean),
        frames=made.frames,
    )


def _main() -> Iterator[str]:
    folder = Path(sys.argv[1])
    base = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    for entry in write_corpus(folder, base):
        what = (
            entry.outcome
            if not entry.reasons
            else f"{entry.outcome} ({'/'.join(sorted(entry.reasons))})"
        )
        yield f"{entry.kind:42} {what:34} {os.fsencode(entry.path.name)!r}"


if __name__ == "__main__":
    for line in _main():
        print(line)
