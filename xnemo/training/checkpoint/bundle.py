"""The portable result of training: weights any number of workers, or none, can load.

A bundle is a folder: `bundle.json` (configuration, samples seen, index digest, git revision,
metrics, and size and sha256 of every file), `raw.safetensors`, `ema.safetensors` and, to go on
training, `moments.safetensors` with the optimisers' state by parameter name.
"""

import hashlib
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from preprocessing.errors import UserError
from xnemo.config import from_dict, to_dict
from xnemo.model.frozen_paths import FrozenPaths
from xnemo.model.networks import (
    TEMPORAL,
    TRAINING_PARTS,
    Networks,
    empty_networks,
    initialise_missing,
)
from xnemo.model.weights.check import assign_tensors, check_tensors
from xnemo.training.config import TrainConfig
from xnemo.training.engines.engine import OptimizerMoments

FORMAT = 1
PARTS = ("denoiser", "reference_net", "motion_encoder", *TRAINING_PARTS)
Weights = Literal["ema", "raw"]


@dataclass(frozen=True)
class Bundle:
    """What `load_bundle` returns."""

    # All networks, in evaluation mode, on the CPU.
    networks: Networks
    # The run's configuration.
    config: TrainConfig
    # Everything else in bundle.json: samples_seen, index_digest, git, metrics, ...
    meta: dict[str, Any]


def save_bundle(
    folder: Path,
    config: TrainConfig,
    meta: Mapping[str, Any],
    *,
    raw: Mapping[str, Tensor],
    ema: Mapping[str, Tensor] | None = None,
    moments: Mapping[str, OptimizerMoments] | None = None,
) -> None:
    """Write a bundle to a temporary name and rename it: it is there whole or not at all.

    Args:
        folder: where the bundle is to be; replaced where it exists.
        meta: plain data for bundle.json.
        raw: all parameters and buffers, named "denoiser.…" and so on, with "discriminator.…".
        ema: averaged ones; names missing here are taken from `raw` when loading.
        moments: optimiser state by engine, "network" and "discriminator".

    Raises:
        UserError: a weight is not finite.
    """
    for name, tensor in raw.items():
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(
                f"{name} is not finite, so no bundle is written", "resume from the last one"
            )
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.mkdir(parents=True)
    try:
        _save(raw, temporary / "raw.safetensors")
        if ema is not None:
            _save(ema, temporary / "ema.safetensors")
        updates = {}
        if moments is not None:
            _save(_flatten(moments), temporary / "moments.safetensors")
            updates = {engine: m.updates for engine, m in moments.items()}
        content = {
            **meta,
            "format": FORMAT,
            "config": to_dict(config),
            "updates": updates,
            "files": {path.name: file_facts(path) for path in sorted(temporary.iterdir())},
        }
        (temporary / "bundle.json").write_text(json.dumps(content, indent=1, sort_keys=True))
        publish_folder(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def load_bundle(
    path: str | Path, weights: Weights = "ema", paths: FrozenPaths | None = None
) -> Bundle:
    """Build the networks of a bundle with its averaged or its raw weights.

    Args:
        path: the bundle's folder.
        weights: which.
        paths: where autoencoder and image embedding lie, if not where the bundle says.

    Raises:
        UserError: there is no bundle, it is of another version, or a file of it is missing, cut
            short or altered.
    """
    folder = Path(path)
    meta = read_meta(folder)
    config = bundle_config(folder, meta)
    tensors = read_weights(folder, weights, meta)
    # Large parts stay without memory until the bundle's tensors take their place.
    has_head = any(name.startswith("gan_head.") for name in tensors)
    network = paths.applied(config.network) if paths else config.network
    networks = empty_networks(network, config.seed, training=has_head)
    for part in load_weights(networks, tensors, folder):
        if part in TRAINING_PARTS:
            setattr(networks, part, None)
    initialise_missing(networks, config.seed)
    for part in PARTS:
        module = getattr(networks, part)
        if module is not None:
            module.eval()
    return Bundle(networks, config, meta)


def bundle_config(folder: Path, meta: Mapping[str, Any]) -> TrainConfig:
    """Return the configuration in a bundle's meta; UserError where this version cannot read it."""
    try:
        return from_dict(TrainConfig, meta["config"])
    except UserError as error:
        raise UserError(
            f"the configuration in {folder} does not suit this version: {error.what}",
            "load it with the version that wrote it",
        ) from None


def read_meta(folder: Path) -> dict[str, Any]:
    """Return bundle.json after checking that every file it lists is there and unaltered."""
    remedy = "give the folder of a bundle, such as runs/NAME/bundle"
    if not folder.is_dir():
        raise UserError(f"there is no bundle at {folder}", remedy)
    try:
        meta = json.loads((folder / "bundle.json").read_text())
        files = {
            name: {"bytes": about["bytes"], "sha256": about["sha256"]}
            for name, about in meta["files"].items()
        }
        version, _ = meta["format"], meta["config"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        inside = folder / "bundle"
        hint = f"did you mean {inside}?" if (inside / "bundle.json").is_file() else remedy
        raise UserError(f"{folder} holds no readable bundle.json", hint) from None
    if version != FORMAT:
        raise UserError(
            f"{folder} is a bundle of format {version}, this version reads {FORMAT}",
            "load it with the version that wrote it",
        )
    damage = find_damage(folder, files)
    if damage:
        raise UserError(f"bundle {folder} is damaged: {damage}", "copy it again or use another")
    return meta


def read_weights(
    folder: Path, weights: Weights, meta: Mapping[str, Any] | None = None
) -> dict[str, Tensor]:
    """Return a bundle's tensors by name; the averaged ones on top of the raw ones."""
    meta = read_meta(folder) if meta is None else meta
    tensors = _load(folder / "raw.safetensors")
    if weights == "ema":
        if "ema.safetensors" not in meta["files"]:
            raise UserError(f"bundle {folder} has no averaged weights", "ask for weights=raw")
        tensors |= _load(folder / "ema.safetensors")
    return tensors


def read_moments(folder: Path, meta: Mapping[str, Any]) -> dict[str, OptimizerMoments]:
    """Return the optimisers' state by engine.

    Raises:
        UserError: the bundle was written without it.
    """
    if "moments.safetensors" not in meta["files"]:
        raise UserError(f"bundle {folder} has no optimiser state", "start with init_from instead")
    tensors = _load(folder / "moments.safetensors")
    found = {}
    for engine, updates in meta["updates"].items():
        parts: dict[str, dict[str, Tensor]] = {"first": {}, "second": {}}
        for name, tensor in tensors.items():
            owner, which, parameter = name.split("/", 2)
            if owner == engine:
                parts[which][parameter] = tensor
        found[engine] = OptimizerMoments(updates, parts["first"], parts["second"])
    return found


def load_weights(networks: Networks, tensors: Mapping[str, Tensor], source: Path) -> list[str]:
    """Copy tensors into the networks; return the parts and modules that the tensors lack.

    Temporal modules may be missing (an image bundle starts a temporal stage), and so may the GAN
    head and the discriminator; they keep their initial values. All other names must match.

    Raises:
        UserError: a name or a shape differs, or a weight is not finite; nothing is loaded.
    """
    fresh: list[str] = []
    optional: list[str] = []
    expected: dict[str, Tensor] = {}
    found = dict(tensors)
    for part in PARTS:
        module: nn.Module | None = getattr(networks, part)
        own = [name for name in found if name.startswith(f"{part}.")]
        if module is None:
            unused = own
        elif not own and part in TRAINING_PARTS:
            fresh.append(part)
            continue
        else:
            wanted = {f"{part}.{name}": tensor for name, tensor in module.state_dict().items()}
            expected |= wanted
            temporal = [name for name in wanted if TEMPORAL in name]
            unused = [] if temporal else [name for name in own if TEMPORAL in name]
            if temporal and not any(TEMPORAL in name for name in own):
                fresh.append(f"{part}.temporal_modules")
                optional += temporal
        for name in unused:
            del found[name]
    # Nothing is loaded before everything is known to fit.
    check_tensors(
        found, expected, str(source), optional, remedy="use the network settings of that bundle"
    )
    for part in PARTS:
        own = [name for name in found if name.startswith(f"{part}.")]
        if own:
            stripped = {name.removeprefix(f"{part}."): found[name] for name in own}
            assign_tensors(getattr(networks, part), stripped, keep_dtype=False)
    return fresh


def file_facts(path: Path) -> dict[str, Any]:
    """Return size and sha256 of a file."""
    with path.open("rb") as file:
        return {
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def find_damage(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Say what is wrong with the listed files of a folder, or None where all are as written."""
    for name, facts in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != facts["bytes"]:
            return f"{name} has {path.stat().st_size} bytes of {facts['bytes']}"
        if file_facts(path)["sha256"] != facts["sha256"]:
            return f"{name} was altered"
    return None


def publish_folder(temporary: Path, folder: Path) -> None:
    """Force a folder's files to disk and rename it into place, replacing an older one."""
    for path in [p for p in temporary.rglob("*") if p.is_file()]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    if folder.exists():
        old = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.old")
        folder.rename(old)
        temporary.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        temporary.rename(folder)


def git_revision() -> str | None:
    """Return the revision of the working tree this code lies in, with "+" where it was changed."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*"],
            cwd=here, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def _flatten(moments: Mapping[str, OptimizerMoments]) -> dict[str, Tensor]:
    return {
        f"{engine}/{which}/{name}": tensor
        for engine, m in moments.items()
        for which, tensors in (("first", m.first), ("second", m.second))
        for name, tensor in tensors.items()
    }


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}", "copy the bundle again") from None
