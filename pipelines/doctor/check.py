"""One line of the doctor's report."""

from dataclasses import dataclass
from typing import Literal

#: "ok"; "warn": works, or is optional and absent; "missing": something essential does not work.
State = Literal["ok", "warn", "missing"]


@dataclass(frozen=True)
class Check:
    """What was looked at, how it is, and what to do about it."""

    # What was looked at.
    name: str
    # How it is.
    state: State
    # What was found, in a few words.
    found: str
    # The command or the step that mends it; empty where nothing needs mending.
    remedy: str = ""
