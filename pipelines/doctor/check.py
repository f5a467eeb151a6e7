"""One line of the doctor's report."""

from dataclasses import dataclass
from typing import Literal

#: "ok"; "warn": works with limits, or optional and absent; "missing": required and not working.
State = Literal["ok", "warn", "missing"]


@dataclass(frozen=True)
class Check:
    """Result of one check."""

    # What was checked.
    name: str
    state: State
    # What was found, in a few words.
    found: str
    # Command or step that fixes it; empty if nothing needs fixing.
    remedy: str = ""
