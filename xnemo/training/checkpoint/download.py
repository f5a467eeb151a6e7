"""Bring back what a run has uploaded, on a machine that has nothing of it."""

import json
import logging
import re
import shutil
from pathlib import Path

from preprocessing.errors import UserError
from preprocessing.storage.store import Store
from xnemo.training.checkpoint.bundle import publish_folder
from xnemo.training.checkpoint.store import RECORD
from xnemo.training.checkpoint.upload import run_store

log = logging.getLogger(__name__)

# What a record may name: it decides where files are written.
_BUNDLE_FILE = re.compile(r"bundle/[\w.]+")

# Bytes fetched at once: a file of weights need not fit into memory.
_PIECE = 1 << 26


def find_uploaded(url: str, run_dir: Path) -> int | None:
    """Return the position, in samples, of the newest checkpoint that a run has uploaded whole.

    Raises:
        UserError: the store cannot be asked.
    """
    return max(_positions(run_store(url, run_dir)), default=None)


def fetch_uploaded(url: str, run_dir: Path) -> int | None:
    """Put the newest uploaded checkpoint of a run into its folder; return its position in samples.

    A checkpoint that arrives damaged is passed over for the one before. Settings are written to
    `config.json`, as the run's first start did.

    Raises:
        UserError: the store cannot be read.
    """
    store = run_store(url, run_dir)
    for samples in sorted(_positions(store), reverse=True):
        name = f"{samples:012d}"
        folder = run_dir / "checkpoints" / name
        temporary = folder.with_name(f".{name}.fetched.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            record = json.loads(store.read(f"{name}/{RECORD}"))
            for file, facts in record["files"].items():
                if not _BUNDLE_FILE.fullmatch(file):
                    raise ValueError(f"its record names {file!r}")
                _fetch(store, f"{name}/{file}", temporary / file, int(facts["bytes"]))
            (temporary / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True))
            config = json.loads((temporary / "bundle" / "bundle.json").read_text())["config"]
            (run_dir / "config.json").write_text(json.dumps(config, indent=1))
            publish_folder(temporary, folder)
        except (OSError, ValueError, KeyError, TypeError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            log.warning("checkpoint %s of %s cannot be fetched: %s", name, store.url, error)
            continue
        log.warning("nothing of this run is here; going on from %s/%s", store.url, name)
        return samples
    return None


def _positions(store: Store) -> list[int]:
    try:
        names = store.list()
    except OSError as error:
        raise UserError(
            f"checkpoint.upload={store.url} cannot be listed: {error}",
            "mend the access, or leave checkpoint.upload empty",
        ) from error
    folders = [Path(name).parts[0] for name in names if Path(name).name == RECORD]
    return [int(folder) for folder in folders if folder.isdigit()]


def _fetch(store: Store, name: str, target: Path, length: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        for start in range(0, length, _PIECE):
            file.write(store.read(name, start, min(length, start + _PIECE)))
