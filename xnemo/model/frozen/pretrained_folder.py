"""Frozen weights from a local folder or the hub, or one line that says why not."""

from pathlib import Path
from typing import Any

from preprocessing.errors import UserError, first_line


def load_pretrained(
    model_class: Any, path: str, subfolder: str | None, usual_subfolder: str, field: str
) -> Any:
    """Load a diffusers or transformers model, in fp32 and evaluation mode.

    A local folder is taken as it is and never looked up on the hub; anything else is a hub name. A
    whole pipeline's folder is recognised by its `usual_subfolder`.

    Args:
        model_class: Class with `from_pretrained`.
        path: Local folder, or a hub name such as "owner/name".
        subfolder: Folder inside `path`, or None to find it.
        usual_subfolder: Where a whole pipeline keeps such a model.
        field: Name of the config field that holds `path`, for the error.

    Raises:
        UserError: Where nothing usable is found.
    """
    folder = Path(path).expanduser()
    is_local = folder.is_dir()
    if not is_local and (
        folder.is_absolute() or path.startswith((".", "~")) or path.count("/") > 1
    ):
        raise UserError(f"{field} = {path!r}: no such folder", "give a folder with a config.json")
    if is_local and subfolder is None and not (folder / "config.json").is_file():
        subfolder = usual_subfolder if (folder / usual_subfolder).is_dir() else None
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
    except Exception as error:  # the libraries raise a dozen kinds for a missing or damaged file
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
        # Asked once: the libraries' own requests retry for half a minute where there is no network.
        HfApi().model_info(name, timeout=10)
        return model_class.from_pretrained(name, **options)
