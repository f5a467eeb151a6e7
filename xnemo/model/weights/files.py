"""Reading weight files without running anything in them and without a second copy in memory."""

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from preprocessing.errors import UserError, first_line

# In order of preference, as diffusers names them.
FOLDER_NAMES = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
)


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Return the named tensors of a file, or of a folder that diffusers wrote.

    Tensors are mapped from the file: they cost memory only once they are used. Pickles are read
    with PyTorch's restricted unpickler, which builds tensors and runs nothing else. A training
    checkpoint that keeps its weights under "state_dict" is unwrapped.

    Args:
        path: `.safetensors`, an index of several, a PyTorch file, or a folder.

    Raises:
        UserError: No such file, a damaged file, or one that holds something else.
    """
    path = _weights_file(Path(path).expanduser())
    _refuse_other_content(path)
    if path.name.endswith(".index.json"):
        return _read_index(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_pickle(path)


def _weights_file(path: Path) -> Path:
    if path.is_dir():
        for name in FOLDER_NAMES:
            if (path / name).is_file():
                return path / name
        raise UserError(
            f"{path} holds none of {', '.join(FOLDER_NAMES)}", "give the folder of one network"
        )
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder", "check the path")
    return path


def _read_index(path: Path) -> dict[str, Tensor]:
    try:
        places: dict[str, str] = json.loads(path.read_text())["weight_map"]
        names = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no index of safetensors files", "fetch it again") from error
    tensors: dict[str, Tensor] = {}
    for name in names:
        # An index is data from elsewhere; it may name files beside it and no others.
        if not isinstance(name, str) or name in ("", "..") or Path(name).name != name:
            raise UserError(f"{path} points outside its folder, to {name!r}", "do not use it")
        if not (path.parent / name).is_file():
            raise UserError(f"{path} names {name}, which is not there", "fetch that file too")
        _refuse_other_content(path.parent / name)
        for key, tensor in _read_safetensors(path.parent / name).items():
            if places.get(key) != name:
                place = places.get(key, "no file")
                raise UserError(
                    f"{path.parent / name} holds {key}, which the index places in {place}",
                    "fetch index and files of one version",
                )
            tensors[key] = tensor
    lost = [key for key in places if key not in tensors]
    if lost:
        raise UserError(
            f"{path} places {lost[0]} in {places[lost[0]]}, which lacks it",
            "fetch index and files of one version",
        )
    return tensors


def _refuse_other_content(path: Path) -> None:
    """Name what is often found under the name of a weights file, before a reader guesses."""
    with path.open("rb") as file:
        start = file.read(512).lstrip().lower()
    if not start:
        raise UserError(f"{path} is empty", "fetch it again")
    if start.startswith(b"version https://git-lfs"):
        raise UserError(
            f"{path} is a pointer of git-lfs, not the file itself", "run 'git lfs pull' there"
        )
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b'{"error')):
        raise UserError(
            f"{path} is the answer of a web server, not weights",
            "fetch it again by its direct address, logged in where its publisher asks for it",
        )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is damaged or no safetensors file ({first_line(error)})", "fetch it again"
        ) from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        # Only the zip format of today can be mapped; older files are read whole.
        content = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is no PyTorch file, or holds more than tensors, and was not opened",
            "use a file of plain tensors from a source that you trust",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} is damaged or no PyTorch file ({first_line(error)})", "fetch it again"
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not _is_state_dict(content):
        inner = [key for key, value in _items(content) if _is_state_dict(value)]
        remedy = (
            f'save what it holds under "{inner[0]}" as a file of its own'
            if inner
            else "give a file of weights"
        )
        raise UserError(f"{path} is no state dict (names to tensors)", remedy)
    return dict(content)


def _items(content: object) -> list[tuple[object, object]]:
    return list(content.items()) if isinstance(content, Mapping) else []


def _is_state_dict(content: object) -> bool:
    items = _items(content)
    return bool(items) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in items
    )
