"""How far each store has received a journal."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

#: Name of the file inside a run's folder.
FILE = "tracking.json"


@dataclass
class Progress:
    """What one store has of one journal."""

    # Number of the first entry that it lacks.
    next_seq: int = 0
    # MLflow's id of the run there.
    run_id: str | None = None
    # Entries that it answered it will never take.
    refused: int = 0
    # The last refusal, to be told to the person.
    refusal: str | None = None


def load_progress(run_dir: Path, uri: str) -> Progress:
    """Return how far the store at ``uri`` is; an unreadable record means from the start."""
    return Progress(**_load(run_dir).get(uri, {}))


def save_progress(run_dir: Path, uri: str, progress: Progress) -> None:
    """Record how far the store at ``uri`` is, at once or not at all."""
    everything = _load(run_dir)
    everything[uri] = asdict(progress)
    temporary = run_dir / f".{FILE}.{os.getpid()}"
    temporary.write_text(json.dumps(everything, indent=1, sort_keys=True))
    temporary.replace(run_dir / FILE)


def known_stores(run_dir: Path) -> list[str]:
    """Return the stores that have received anything of this run."""
    return sorted(_load(run_dir))


def _load(run_dir: Path) -> dict[str, dict]:
    try:
        loaded = json.loads((run_dir / FILE).read_text())
    except (FileNotFoundError, ValueError):
        # Sending everything again is safe, so a lost record costs time and nothing else.
        return {}
    return loaded if isinstance(loaded, dict) else {}
