"""Weight files: safe, memory-mapped reading, and folders that are written atomically."""

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from preprocessing.errors import UserError, first_line
from preprocessing.paths import user_path

# File names of diffusers, in order of preference.
FOLDER_NAMES = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
)


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Return the named tensors of a weights file, or of a diffusers folder.

    Tensors are memory-mapped and use memory only when accessed. Pickles are read with PyTorch's
    restricted unpickler, which executes nothing. A training checkpoint with its weights under
    "state_dict" is unwrapped.

    Args:
        path: `.safetensors` file, index of several, PyTorch file, or folder.

    Raises:
        UserError: The file is missing, damaged or not a weights file.
    """
    path = _weights_file(user_path(path))
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
        files: dict[str, str] = json.loads(path.read_text())["weight_map"]
        names = sorted(set(files.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not an index of safetensors files", "fetch it again") from error
    tensors: dict[str, Tensor] = {}
    for name in names:
        # An index is untrusted: it may name only files in its own folder.
        if not isinstance(name, str) or name in ("", "..") or Path(name).name != name:
            raise UserError(f"{path} points outside its folder, to {name!r}", "do not use it")
        if not (path.parent / name).is_file():
            raise UserError(f"{path} names {name}, which is missing", "fetch that file too")
        _refuse_other_content(path.parent / name)
        for key, tensor in _read_safetensors(path.parent / name).items():
            if files.get(key) != name:
                raise UserError(
                    f"{path.parent / name} contains {key}, which the index assigns to"
                    f" {files.get(key, 'no file')}",
                    "fetch index and files of one version",
                )
            tensors[key] = tensor
    missing = [key for key in files if key not in tensors]
    if missing:
        raise UserError(
            f"{path} assigns {missing[0]} to {files[missing[0]]}, which lacks it",
            "fetch index and files of one version",
        )
    return tensors


def _refuse_other_content(path: Path) -> None:
    """Report content that is often found in place of a weights file."""
    with path.open("rb") as file:
        start = file.read(512).lstrip().lower()
    if not start:
        raise UserError(f"{path} is empty", "fetch it again")
    if start.startswith(b"version https://git-lfs"):
        raise UserError(
            f"{path} is a git-lfs pointer, not the file itself", "run 'git lfs pull' there"
        )
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b'{"error')):
        raise UserError(
            f"{path} is the response of a web server, not weights",
            "fetch it again from its direct URL, logged in if the publisher requires it",
        )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is damaged or not a safetensors file ({first_line(error)})", "fetch it again"
        ) from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        # Only the current zip format can be mapped; older files are read whole.
        content = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is not a PyTorch file, or contains more than tensors, and was not opened",
            "use a file of plain tensors from a source that you trust",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} is damaged or not a PyTorch file ({first_line(error)})", "fetch it again"
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not _is_state_dict(content):
        inner = [key for key, value in _items(content) if _is_state_dict(value)]
        remedy = (
            f'save its entry "{inner[0]}" as a separate file' if inner else "give a file of weights"
        )
        raise UserError(f"{path} is not a state dict (names to tensors)", remedy)
    return dict(content)


def _items(content: object) -> list[tuple[object, object]]:
    return list(content.items()) if isinstance(content, Mapping) else []


def _is_state_dict(content: object) -> bool:
    items = _items(content)
    return bool(items) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in items
    )


@contextmanager
def atomic_folder(directory: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a hidden folder to write into; rename it to `directory` on success, else delete it.

    Raises:
        UserError: The folder exists and is not empty.
    """
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory} exists already", "give a new folder")
    partial = directory.with_name(f".{directory.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        os.replace(partial, directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
