"""Loading pretrained weights of other projects, with detection of their kind."""

import json
from collections.abc import Callable
from pathlib import Path

from preprocessing.errors import UserError
from preprocessing.paths import user_path
from xnemo.model.loading.animatediff import load_animatediff
from xnemo.model.loading.official import find_official_files, load_official
from xnemo.model.loading.stable_diffusion import load_stable_diffusion
from xnemo.model.networks import Networks
from xnemo.model.weights.files import FOLDER_NAMES, read_tensors

OFFICIAL = "the official X-NeMo checkpoints"
STABLE_DIFFUSION = "Stable Diffusion 1.x"
ANIMATEDIFF = "AnimateDiff motion modules"


def load_starting_weights(networks: Networks, path: str | Path) -> str:
    """Load a checkpoint of another project into networks.

    Kinds: a folder of the four official files; a Stable Diffusion 1.x pipeline, UNet folder or
    UNet file; an AnimateDiff motion module. Each is checked completely before any of it is loaded.

    Args:
        networks: Parts that the checkpoint lacks keep their weights.
        path: Folder or file.

    Returns:
        The kind, in words.

    Raises:
        UserError: The path holds none of these, or it does not fit.
    """
    location = user_path(path)
    kind = recognise(location)
    load: dict[str, Callable[[], None]] = {
        OFFICIAL: lambda: load_official(networks, find_official_files(location)),
        STABLE_DIFFUSION: lambda: load_stable_diffusion(networks, location),
        ANIMATEDIFF: lambda: load_animatediff(networks, location),
    }
    load[kind]()
    return kind


def recognise(location: Path) -> str:
    """Return which kind of checkpoint a path holds.

    Raises:
        UserError: The kind is unknown.
    """
    if location.is_dir():
        if any(location.glob("xnemo_*.pth")):
            return OFFICIAL
        if (location / "unet").is_dir():
            return STABLE_DIFFUSION
        if class_name(location / "config.json") == "MotionAdapter":
            return ANIMATEDIFF
        if not any((location / name).is_file() for name in FOLDER_NAMES):
            raise _unknown(location)
    names = read_tensors(location)
    if any(".motion_modules." in name for name in names) and "conv_in.weight" not in names:
        return ANIMATEDIFF
    if "conv_in.weight" in names or any(name.startswith("model.diff") for name in names):
        return STABLE_DIFFUSION
    raise _unknown(location)


def _unknown(location: Path) -> UserError:
    return UserError(
        f"{location} holds no weights that can start a network",
        "give the official files' folder, a Stable Diffusion 1.x UNet or an AnimateDiff module",
    )


def class_name(path: Path) -> str | None:
    """Return the class name in a diffusers `config.json`; None where it is not such a file."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return data.get("_class_name") if isinstance(data, dict) else None
