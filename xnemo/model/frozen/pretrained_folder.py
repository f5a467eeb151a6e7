"""Loading frozen weights from a local folder or the Hugging Face hub."""

from pathlib import Path
from typing import Any

from preprocessing.errors import UserError, first_line
from preprocessing.paths import user_path


def require_folder(path: str, field: str) -> Path | None:
    """Return an existing local folder, or None for a name on the hub.

    Raises:
        UserError: The path can only be a local one, and does not exist.
    """
    folder = user_path(path)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or path.startswith((".", "~")) or path.count("/") > 1:
        raise UserError(f"{field} = {path!r}: no such folder", "give a folder with a config.json")
    return None


def load_pretrained(
    model_class: Any, path: str, subfolder: str | None, pipeline_subfolder: str, field: str
) -> Any:
    """Load a diffusers or transformers model, in fp32 and evaluation mode.

    An existing local folder is never looked up on the hub; anything else is a hub name. The folder
    of a whole pipeline is recognised by its `pipeline_subfolder`.

    Args:
        model_class: Class with `from_pretrained`.
        path: Local folder, or a hub name such as "owner/name".
        subfolder: Folder inside `path`, or None to find it.
        pipeline_subfolder: Subfolder of such a model in a whole pipeline.
        field: Name of the config field of `path`, for the error.

    Raises:
        UserError: There is no loadable model at `path`.
    """
    folder = require_folder(path, field) or Path(path)
    is_local = folder.is_dir()
    if is_local and subfolder is None and not (folder / "config.json").is_file():
        subfolder = pipeline_subfolder if (folder / pipeline_subfolder).is_dir() else None
    if is_local and not (folder / (subfolder or "") / "config.json").is_file():
        raise UserError(
            f"{field} = {path!r} holds no config.json of a {model_class.__name__}",
            "give the folder that save_pretrained wrote",
        )
    options: dict[str, Any] = {"subfolder": subfolder} if subfolder else {}
    try:
        if is_local:
            model = model_class.from_pretrained(str(folder), local_files_only=True, **options)
        else:
            model = _from_hub(model_class, path, options)
    except Exception as error:  # the libraries raise many kinds for a missing or damaged file
        remedy = (
            "check the folder's files"
            if is_local
            else "give a local folder; the hub could not be reached or does not have it"
        )
        raise UserError(
            f"{field} = {path!r} does not load as {model_class.__name__}: {first_line(error)}",
            remedy,
        ) from error
    return model.float().eval()


def _from_hub(model_class: Any, name: str, options: dict[str, Any]) -> Any:
    """Load from the local cache, else download."""
    from huggingface_hub import HfApi

    try:
        return model_class.from_pretrained(name, local_files_only=True, **options)
    except OSError:
        # One request first: the libraries' own retry for half a minute without a network.
        HfApi().model_info(name, timeout=10)
        return model_class.from_pretrained(name, **options)
