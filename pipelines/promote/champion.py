"""The champion's folder: bundles that never change, and a pointer to the one that is served."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from preprocessing.errors import UserError
from preprocessing.storage.lease import hold_lease
from preprocessing.storage.store import LocalStore, Store, open_store
from preprocessing.storage.unfinished import unfinished_name
from xnemo.training.checkpoint.bundle import read_meta
from xnemo.training.checkpoint.download import download_file
from xnemo.training.checkpoint.integrity import publish_folder

#: File that names the champion.
POINTER = "champion.json"

# A bundle's name and its files' names become local paths.
_BUNDLE, _FILE = re.compile(r"bundles/\w[\w.-]*"), re.compile(r"\w[\w.]*")


@dataclass(frozen=True)
class Champion:
    """The served bundle."""

    # Name of the run that trained it.
    run: str
    # Its folder in the champion's folder.
    bundle: str
    # Its scores on the held-out clips of the day when it was promoted.
    scores: Mapping[str, float]


@contextmanager
def champion_store(url: str) -> Iterator[Store]:
    """Open a champion's folder as its only writer.

    Raises:
        UserError: another job holds it, or it cannot be written.
    """
    store = open_store(url)
    with hold_lease(store):
        yield store


def read_champion(store: Store) -> Champion | None:
    """Return the champion, or None if there was none yet.

    Raises:
        UserError: the pointer is damaged.
    """
    if not store.exists(POINTER):
        return None
    try:
        champion = Champion(**json.loads(store.read(POINTER)))
        if not _BUNDLE.fullmatch(champion.bundle):
            raise ValueError(champion.bundle)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{store.url}/{POINTER} is damaged: {error}",
            "restore it, or delete it to start without a champion",
        ) from error
    return champion


def bundle_name(run: str, bundle: Path) -> str:
    """Return the place of a bundle in a champion's folder; it differs for different weights."""
    return f"bundles/{run}-{read_meta(bundle)['files']['raw.safetensors']['sha256'][:12]}"


def publish_champion(store: Store, bundle: Path, champion: Champion) -> None:
    """Copy a bundle to the champion's folder, then move the pointer to it."""
    for name in (*read_meta(bundle, verify=False)["files"], "bundle.json"):
        copy = store.scratch() / unfinished_name()
        shutil.copyfile(bundle / name, copy)
        store.publish(copy, f"{champion.bundle}/{name}")
    store.write_atomic(POINTER, json.dumps(asdict(champion), indent=1).encode())


def fetch_champion(store: Store, champion: Champion, cache: Path) -> Path:
    """Return a folder with the champion's bundle; an object store's is downloaded to `cache`.

    Raises:
        UserError: the bundle is not there.
    """
    if isinstance(store, LocalStore):
        return store.root / champion.bundle
    folder = cache / champion.bundle
    if folder.is_dir():
        return folder
    shutil.rmtree(cache, ignore_errors=True)
    temporary = cache / "unfinished"
    try:
        text = store.read(f"{champion.bundle}/bundle.json")
        files = json.loads(text)["files"]
        for name, facts in files.items():
            if not _FILE.fullmatch(name):
                raise ValueError(f"bundle.json lists {name!r}")
            download_file(store, f"{champion.bundle}/{name}", temporary / name, int(facts["bytes"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the champion {store.url}/{champion.bundle} cannot be read: {error}",
            f"restore it, or delete {POINTER} to start without a champion",
        ) from error
    (temporary / "bundle.json").write_bytes(text)
    folder.parent.mkdir(parents=True, exist_ok=True)
    publish_folder(temporary, folder)
    return folder
