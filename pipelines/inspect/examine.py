"""Recognise what is at a path or URL, and describe it."""

import os
from pathlib import Path

from rich.console import RenderableType
from rich.text import Text

from pipelines.animate.portrait import IMAGE_SUFFIXES
from pipelines.inspect.bundle import BUNDLE_MARK, find_bundle, inspect_bundle
from pipelines.inspect.dataset import inspect_dataset
from pipelines.inspect.files import inspect_image, inspect_shard, inspect_video
from pipelines.inspect.findings import Findings
from pipelines.inspect.weights import WEIGHT_SUFFIXES, holds_weights, inspect_weights
from preprocessing.errors import UserError
from preprocessing.paths import user_path
from preprocessing.storage.index import INDEX_NAME
from preprocessing.storage.store import open_store


def inspect(path: str | os.PathLike[str], *, as_json: bool = False) -> RenderableType:
    """Describe what is at a path or URL, ready to print.

    Raises:
        UserError: Nothing is there, or it is damaged or of an unknown kind.
    """
    findings = examine(os.fspath(path))
    return Text(findings.as_json()) if as_json else findings.rendered()


def examine(path: str) -> Findings:
    """Describe what is at a path or URL as plain values; raises as `inspect`."""
    if path.endswith(".tar"):
        return inspect_shard(path)
    remote = "://" in path and not path.startswith("file://")
    if not remote:
        local = user_path(path.removeprefix("file://"))
        if not local.exists():
            raise UserError(f"nothing is at {path}", "check the path")
        if local.is_file():
            if local.suffix.lower() in IMAGE_SUFFIXES:
                return inspect_image(local)
            if local.suffix.lower() in WEIGHT_SUFFIXES:
                return inspect_weights(local)
            return inspect_video(local)
    store = open_store(path)
    if store.exists(INDEX_NAME):
        return inspect_dataset(path)
    if store.exists(BUNDLE_MARK):
        return inspect_bundle(path)
    if not remote and (bundle := find_bundle(Path(store.url))) is not None:
        return inspect_bundle(str(bundle))
    if not remote and holds_weights(local):
        return inspect_weights(local)
    if any(name.startswith("_work/") for name in store.list()):
        raise UserError(
            f"{path} is an unfinished data set",
            "run the same 'xnemo preprocess' again; it resumes",
        )
    raise UserError(
        f"{path} contains neither a data set ({INDEX_NAME}) nor a bundle ({BUNDLE_MARK})",
        "name the OUT folder of 'xnemo preprocess', a bundle or run of 'xnemo train', "
        "weights, a .tar, a video or an image",
    )
