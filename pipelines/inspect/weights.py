"""Contents of weights that are not a bundle: a file, the official four, a saved pipeline."""

import shlex
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from pipelines.inspect.findings import Findings

# Suffixes of weight files; a folder is recognised by its contents.
WEIGHT_SUFFIXES = {".safetensors", ".pth", ".pt", ".ckpt", ".bin"}
_ROWS = 12


def holds_weights(folder: Path) -> bool:
    """Return whether a folder is a saved pipeline, official files, or a single network."""
    from xnemo.model.loading.starting_weights import class_name
    from xnemo.model.networks import CONFIG_FILE
    from xnemo.model.weights.files import FOLDER_NAMES

    if any(folder.glob("xnemo_*.pth")) or class_name(folder / "config.json"):
        return True
    return any((folder / name).is_file() for name in (CONFIG_FILE, *FOLDER_NAMES))


def inspect_weights(path: Path) -> Findings:
    """Describe weights by their tensors; a pickle is read without running code in it.

    Raises:
        UserError: A file is missing, damaged, or contains more than tensors.
    """
    from xnemo.model.loading.official import find_official_files
    from xnemo.model.networks import CONFIG_FILE, read_config
    from xnemo.model.weights.files import read_tensors

    quoted = shlex.quote(str(path))
    animate = f"xnemo animate PORTRAIT DRIVING --model {quoted} -o animated.mp4"
    train = f"xnemo train finetune --data OUT --run NAME init_from={quoted}"
    facts: dict[str, Any] = {}
    following: tuple[str, ...]
    if (path / CONFIG_FILE).is_file():
        config = read_config(path)
        facts = {"image size": config.image_size, "autoencoder": config.autoencoder.kind}
        places = {name: path / name for name in ("denoiser", "reference_net", "motion_encoder")}
        kind, following = "saved pipeline", (animate,)
    elif any(path.glob("xnemo_*.pth")):
        places = {name: file for name, file in vars(find_official_files(path)).items() if file}
        kind, following = "official checkpoints", (animate, train)
    else:
        tensors = read_tensors(path)
        facts = _facts(tensors)
        return Findings("weights", str(path), facts, {"parts": _parts(tensors)}, (train,))
    rows = [{"file": name, **_facts(read_tensors(place))} for name, place in places.items()]
    return Findings(kind, str(path), facts, {"networks": rows}, following)


def _facts(tensors: dict[str, Any]) -> dict[str, Any]:
    types = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values())
    return {
        "tensors": len(tensors),
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "types": dict(types),
    }


def _parts(tensors: dict[str, Any]) -> list[dict[str, Any]]:
    """Return tensors and parameters under each first part of a name, the largest first."""
    counts: dict[str, list[int]] = defaultdict(list)
    for name, tensor in tensors.items():
        counts[name.partition(".")[0]].append(tensor.numel())
    largest = sorted(counts.items(), key=lambda item: -sum(item[1]))[:_ROWS]
    return [{"part": part, "tensors": len(n), "parameters": sum(n)} for part, n in largest]
