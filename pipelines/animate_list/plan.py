"""The pairs of a list, and which of them are animated already."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pipelines.animate.job import AnimateOptions, write_file
from preprocessing.dataset.lists import parse_table
from preprocessing.errors import UserError
from preprocessing.paths import user_path
from xnemo.config import digest

#: Folder of the records that a job resumes from.
WORK = "_work"
RESULTS_NAME = "results.parquet"


@dataclass(frozen=True)
class Pair:
    """A portrait, a driving video, and the name of what is made of them."""

    portrait: str
    driving: str
    # Output without its suffix, such as "anna_by_clip3_1f2e3d4c".
    name: str
    # Changes with the model, the settings and the input files.
    key: str


@dataclass(frozen=True)
class PairRecord:
    """Result of a pair, and its row in the table."""

    portrait: str
    driving: str
    # "done", "failed", or "refused" where the model itself cannot be used.
    status: str
    # Why it failed.
    reason: str = ""
    # Name of the video.
    output: str = ""
    frames: int = 0
    fps: float = 0.0
    # Which faces were used, and what became of the sound.
    portrait_face: str = ""
    driving_face: str = ""
    audio: str = ""
    seconds: float = 0.0


def read_pairs(file: Path, model: str, options: AnimateOptions) -> list[Pair]:
    """Return the pairs of a table with columns `portrait` and `driving`, each once.

    Relative paths start at the list's folder.

    Raises:
        UserError: The list is missing, or is not understood.
    """
    try:
        rows = parse_table(str(file), file.read_bytes(), ("portrait", "driving"))
    except OSError as error:
        raise UserError(f"the list {file} cannot be read: {error.strerror}", "check it") from error
    if not rows:
        raise UserError(f"the list {file} has no pairs", "write a line for each")
    settings = f"{model} {digest(options)}"
    pairs = {}
    for _, cells in rows:
        written = (user_path(cells[column]) for column in ("portrait", "driving"))
        paths = [file.absolute().parent / path for path in written]
        names = "\n".join(map(str, paths))
        short = hashlib.sha256(names.encode()).hexdigest()[:8]
        content = "\n".join([settings, names, *map(_version, paths)])
        pairs[names] = Pair(
            portrait=str(paths[0]),
            driving=str(paths[1]),
            name=f"{paths[0].stem[:60]}_by_{paths[1].stem[:60]}_{short}",
            key=hashlib.sha256(content.encode()).hexdigest(),
        )
    return list(pairs.values())


def finished(pair: Pair, out: Path) -> PairRecord | None:
    """Return the record of a pair that need not be animated again."""
    try:
        kept = json.loads((out / WORK / f"{pair.name}.json").read_text())
        record = PairRecord(**kept["record"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    there = record.status == "done" and (out / record.output).is_file()
    return record if there and kept["key"] == pair.key else None


def keep_record(pair: Pair, record: PairRecord, out: Path) -> None:
    """Write the record of a pair, after its video."""
    content = json.dumps({"key": pair.key, "record": asdict(record)})
    write_file(out / WORK / f"{pair.name}.json", content.encode())


def _version(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:
        return "missing"
    return f"{found.st_size} {found.st_mtime_ns}"
