"""Contents of a bundle: settings, training progress, and size of each network."""

import math
import shlex
from collections import defaultdict
from pathlib import Path
from typing import Any

from pipelines.inspect.findings import Findings
from preprocessing.errors import UserError
from preprocessing.paths import user_path

# The file that identifies a bundle.
BUNDLE_MARK = "bundle.json"


def find_bundle(folder: Path) -> Path | None:
    """Return the bundle of a run: the final one, or that of the newest checkpoint."""
    final = folder / "bundle"
    if (final / BUNDLE_MARK).is_file():
        return final
    checkpoints = sorted(folder.glob(f"checkpoints/*/bundle/{BUNDLE_MARK}"))
    return checkpoints[-1].parent if checkpoints else None


def inspect_bundle(path: str) -> Findings:
    """Describe a bundle.

    Raises:
        UserError: It is on another machine, or a file in it is missing, truncated or altered.
    """
    from xnemo.config import digest
    from xnemo.training.checkpoint.bundle import bundle_config, read_meta

    if "://" in path and not path.startswith("file://"):
        raise UserError(f"{path} is a bundle on another machine", "copy it here first")
    folder = user_path(path.removeprefix("file://"))
    meta = read_meta(folder)
    config = bundle_config(folder, meta)
    network = config.network
    facts: dict[str, Any] = {
        "stage": config.stage,
        "samples seen": meta.get("samples_seen"),
        "samples planned": config.samples,
        "image size": network.image_size,
        "autoencoder": network.autoencoder.kind,
        "image embedding": network.image_embedding.kind,
        "engine": config.engine.kind,
        "averaged weights": "ema.safetensors" in meta["files"],
        "can be resumed": "moments.safetensors" in meta["files"],
        "metrics": meta.get("metrics") or {},
        "trained on index": meta.get("index_digest"),
        "config digest": digest(config),
        "git revision": meta.get("git"),
    }
    known = {
        "config",
        "files",
        "format",
        "updates",
        "samples_seen",
        "metrics",
        "index_digest",
        "git",
    }
    facts |= {name.replace("_", " "): value for name, value in meta.items() if name not in known}
    files = [
        {"file": name, "bytes": about["bytes"], "sha256": about["sha256"]}
        for name, about in meta["files"].items()
    ]
    tables = {"networks": _parameters(folder / "raw.safetensors"), "files": files}
    following = f"xnemo animate PORTRAIT DRIVING --model {shlex.quote(str(folder))} -o animated.mp4"
    return Findings("bundle", path, facts, tables, (following,))


def _parameters(weights: Path) -> list[dict[str, Any]]:
    """Return tensors and parameters of each network, from the file's header alone."""
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, int] = defaultdict(int)
    parameters: dict[str, int] = defaultdict(int)
    try:
        with safe_open(weights, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 - the file is not a mapping
                part = name.partition(".")[0]
                tensors[part] += 1
                parameters[part] += math.prod(file.get_slice(name).get_shape())
    except (SafetensorError, OSError) as error:
        raise UserError(f"{weights} cannot be read: {error}", "copy the bundle again") from None
    return [
        {"network": part, "tensors": tensors[part], "parameters": parameters[part]}
        for part in tensors
    ]
