"""`xnemo inspect`: what is in a data set, a bundle, a run, weights, a shard, a video, a picture."""

import os
from pathlib import Path

from rich.console import RenderableType
from rich.text import Text

from pipelines.animate.portrait import PICTURES
from pipelines.inspect.bundle import BUNDLE_MARK, find_bundle, inspect_bundle
from pipelines.inspect.dataset import inspect_dataset
from pipelines.inspect.files import inspect_picture, inspect_shard, inspect_video
from pipelines.inspect.findings import Findings
from pipelines.inspect.weights import WEIGHTS, holds_weights, inspect_weights
from preprocessing.errors import UserError
from preprocessing.storage.index import INDEX_NAME
from preprocessing.storage.store import open_store


def inspect(path: str | os.PathLike[str], *, as_json: bool = False) -> RenderableType:
    """Tell what is at a path or URL, ready to print.

    Raises:
        UserError: nothing is there, it is damaged, or it is nothing xnemo knows.
    """
    findings = examine(os.fspath(path))
    return Text(findings.as_json()) if as_json else findings.rendered()


def examine(path: str) -> Findings:
    """Find out what is at a path or URL and describe it; raises as `inspect`."""
    if path.endswith(".tar"):
        return inspect_shard(path)
    remote = "://" in path and not path.startswith("file://")
    if not remote:
        local = Path(path.removeprefix("file://")).expanduser()
        if not local.exists():
            raise UserError(f"nothing is at {path}", "check the path")
        if local.is_file():
            if local.suffix.lower() in PICTURES:
                return inspect_picture(local)
            if local.suffix.lower() in WEIGHTS:
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
            f"{path} is a data set that is not finished",
            "run the same 'xnemo preprocess' again; it goes on where it stopped",
        )
    raise UserError(
        f"{path} holds neither a data set ({INDEX_NAME}) nor a bundle ({BUNDLE_MARK})",
        "name the OUT folder of 'xnemo preprocess', a bundle or run of 'xnemo train', "
        "weights, a .tar, a video or a picture",
    )
