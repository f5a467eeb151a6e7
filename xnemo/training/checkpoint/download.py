"""Download of a run's uploaded checkpoints, to resume it on another machine."""

import json
import logging
import re
import shutil
from pathlib import Path

from preprocessing.errors import UserError
from preprocessing.storage.store import Store
from xnemo.training.checkpoint.integrity import publish_folder
from xnemo.training.checkpoint.store import RECORD
from xnemo.training.checkpoint.upload import run_store

log = logging.getLogger(__name__)

# File names that a downloaded record may contain; they become local paths.
_BUNDLE_FILE = re.compile(r"bundle/[\w.]+")

# Bytes per request: a file of weights need not fit into memory.
_CHUNK = 1 << 26


def find_uploaded(url: str, run_dir: Path) -> int | None:
    """Return the position, in samples, of the newest complete upload of a run, or None.

    Raises:
        UserError: the store cannot be listed.
    """
    return max(_positions(run_store(url, run_dir)), default=None)


def fetch_uploaded(url: str, run_dir: Path) -> int | None:
    """Download a run's newest uploaded checkpoint and return its position in samples.

    Damaged checkpoints are skipped for the previous one. The run's settings are written to
    `config.json`. None if nothing was uploaded.

    Raises:
        UserError: the store cannot be listed.
    """
    store = run_store(url, run_dir)
    for samples in sorted(_positions(store), reverse=True):
        name = f"{samples:012d}"
        folder = run_dir / "checkpoints" / name
        temporary = folder.with_name(f".{name}.download.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            record = json.loads(store.read(f"{name}/{RECORD}"))
            for file, facts in record["files"].items():
                if not _BUNDLE_FILE.fullmatch(file):
                    raise ValueError(f"its record lists {file!r}")
                download_file(store, f"{name}/{file}", temporary / file, int(facts["bytes"]))
            (temporary / RECORD).write_text(json.dumps(record, indent=1, sort_keys=True))
            config = json.loads((temporary / "bundle" / "bundle.json").read_text())["config"]
            (run_dir / "config.json").write_text(json.dumps(config, indent=1))
            publish_folder(temporary, folder)
        except (OSError, ValueError, KeyError, TypeError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            log.warning("checkpoint %s of %s cannot be downloaded: %s", name, store.url, error)
            continue
        log.warning("no local checkpoint of this run; resuming from %s/%s", store.url, name)
        return samples
    return None


def _positions(store: Store) -> list[int]:
    try:
        names = store.list()
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f"checkpoint.upload={store.url} cannot be listed: {error}",
            "check the URL and credentials, or leave checkpoint.upload empty",
        ) from error
    folders = [Path(name).parts[0] for name in names if Path(name).name == RECORD]
    return [int(folder) for folder in folders if folder.isdigit()]


def download_file(store: Store, name: str, target: Path, length: int) -> None:
    """Download a file of a known length in bytes, piece by piece."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        for start in range(0, length, _CHUNK):
            file.write(store.read(name, start, min(length, start + _CHUNK)))
