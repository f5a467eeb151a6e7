"""Bundles: trained weights in a folder that does not depend on the number of workers.

A bundle holds `bundle.json` (configuration, samples seen, index digest, git revision, metrics, and
size and sha256 of every file), `raw.safetensors`, `ema.safetensors` and, to resume training,
`moments.safetensors` with the optimisers' state by parameter name.
"""

import json
import shutil
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
from xnemo.model.config import FrozenPaths
from xnemo.model.networks import (
    TEMPORAL,
    TRAINING_PARTS,
    Networks,
    empty_networks,
    initialise_missing,
)
from xnemo.model.weights.check import assign_tensors, check_tensors
from xnemo.training.checkpoint.integrity import file_facts, find_damage, publish_folder
from xnemo.training.config import TrainConfig
from xnemo.training.engines.engine import OptimizerMoments

FORMAT = 1
PARTS = ("denoiser", "reference_net", "motion_encoder", *TRAINING_PARTS)
Weights = Literal["ema", "raw"]


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle."""

    # All networks, in evaluation mode, on the CPU.
    networks: Networks
    # The configuration of the run that wrote it.
    config: TrainConfig
    # Everything else in bundle.json: samples_seen, index_digest, git, metrics, ...
    meta: dict[str, Any]

    @property
    def window(self) -> int | None:
        """Frames that temporal modules were trained on at once; None for other stages."""
        return self.config.data.pairs.frames if self.config.stage == "temporal" else None


def save_bundle(
    folder: Path,
    config: TrainConfig,
    meta: Mapping[str, Any],
    *,
    raw: Mapping[str, Tensor],
    ema: Mapping[str, Tensor] | None = None,
    moments: Mapping[str, OptimizerMoments] | None = None,
) -> None:
    """Write a bundle atomically.

    Args:
        folder: the bundle; replaced if it exists.
        config: the configuration of the run.
        meta: further plain data for bundle.json.
        raw: all parameters and buffers by name, such as "denoiser.conv_in.weight".
        ema: averaged ones; loading takes names missing here from `raw`.
        moments: optimiser state by engine, "network" and "discriminator".

    Raises:
        UserError: a weight is not finite.
    """
    for name, tensor in raw.items():
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(
                f"no bundle is written: {name} is not finite", "resume from the last checkpoint"
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
    """Build the networks of a bundle with its averaged or raw weights.

    Args:
        path: the bundle's folder.
        weights: which weights.
        paths: autoencoder and image embedding, if not at the bundle's paths.

    Raises:
        UserError: there is no bundle, its format is unknown, or a file is missing or damaged.
    """
    folder = Path(path)
    meta = read_meta(folder)
    config = bundle_config(folder, meta)
    tensors = read_weights(folder, weights, meta)
    # Large networks are built on the meta device until the bundle's tensors are assigned.
    has_head = any(name.startswith("gan_head.") for name in tensors)
    network = paths.apply_to(config.network) if paths else config.network
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
    """Return the configuration of a bundle.

    Raises:
        UserError: this version cannot read it.
    """
    try:
        return from_dict(TrainConfig, meta["config"])
    except UserError as error:
        raise UserError(
            f"the configuration in {folder} does not fit this version: {error.what}",
            "load it with the version that wrote it",
        ) from None


def read_meta(folder: Path, *, verify: bool = True) -> dict[str, Any]:
    """Return bundle.json after verifying every file that it lists.

    Args:
        folder: the bundle.
        verify: False where another worker, or the checkpoint that it belongs to, was verified:
            hashing takes longer than reading.

    Raises:
        UserError: as for `load_bundle`.
    """
    remedy = "pass the folder of a bundle, such as runs/NAME/bundle"
    if not folder.is_dir():
        raise UserError(f"there is no bundle at {folder}", remedy)
    try:
        meta: dict[str, Any] = json.loads((folder / "bundle.json").read_text())
        files = {
            name: {"bytes": about["bytes"], "sha256": about["sha256"]}
            for name, about in meta["files"].items()
        }
        version, _ = meta["format"], meta["config"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        inside = folder / "bundle"
        hint = f"did you mean {inside}?" if (inside / "bundle.json").is_file() else remedy
        raise UserError(f"{folder} has no readable bundle.json", hint) from None
    if version != FORMAT:
        raise UserError(
            f"{folder} is a bundle of format {version}, and this version reads format {FORMAT}",
            "load it with the version that wrote it",
        )
    damage = find_damage(folder, files) if verify else None
    if damage:
        raise UserError(
            f"bundle {folder} is damaged: {damage}", "copy it again or use another bundle"
        )
    return meta


def read_weights(
    folder: Path, weights: Weights, meta: Mapping[str, Any] | None = None
) -> dict[str, Tensor]:
    """Return a bundle's tensors by name: raw ones, replaced by averaged ones for "ema"."""
    meta = read_meta(folder) if meta is None else meta
    tensors = _load(folder / "raw.safetensors")
    if weights == "ema":
        if "ema.safetensors" not in meta["files"]:
            raise UserError(f"bundle {folder} has no averaged weights", "use weights=raw")
        tensors |= _load(folder / "ema.safetensors")
    return tensors


def read_moments(folder: Path, meta: Mapping[str, Any]) -> dict[str, OptimizerMoments]:
    """Return the optimiser state by engine.

    Raises:
        UserError: the bundle was written without it.
    """
    if "moments.safetensors" not in meta["files"]:
        raise UserError(f"bundle {folder} has no optimiser state", "use init_from instead")
    tensors = _load(folder / "moments.safetensors")
    found = {}
    for engine, updates in meta["updates"].items():
        state: dict[str, dict[str, Tensor]] = {"first": {}, "second": {}}
        for name, tensor in tensors.items():
            owner, moment, parameter = name.split("/", 2)
            if owner == engine:
                state[moment][parameter] = tensor
        found[engine] = OptimizerMoments(updates, state["first"], state["second"])
    return found


def load_weights(
    networks: Networks, tensors: Mapping[str, Tensor], source: Path, *, to_train: bool = False
) -> list[str]:
    """Copy tensors into the networks and return the parts and modules without tensors.

    Temporal modules and parts of training (GAN head, discriminator, motion readout) may be missing,
    and to train also denoiser and reference network, as in bundles of the motion stage; they keep
    their initial values.

    Raises:
        UserError: a name or a shape differs, or a weight is not finite; nothing is loaded then.
    """
    missing: list[str] = []
    optional: list[str] = []
    expected: dict[str, Tensor] = {}
    found = dict(tensors)
    may_lack = {*TRAINING_PARTS, *(("denoiser", "reference_net") if to_train else ())}
    for part in PARTS:
        module: nn.Module | None = getattr(networks, part)
        own = [name for name in found if name.startswith(f"{part}.")]
        if module is None:
            unused = own
        elif not own and part in may_lack:
            missing.append(part)
            continue
        else:
            wanted = {f"{part}.{name}": tensor for name, tensor in module.state_dict().items()}
            expected |= wanted
            temporal = [name for name in wanted if TEMPORAL in name]
            unused = [] if temporal else [name for name in own if TEMPORAL in name]
            if temporal and not any(TEMPORAL in name for name in own):
                missing.append(f"{part}.temporal_modules")
                optional += temporal
        for name in unused:
            del found[name]
    # Check everything before loading anything.
    check_tensors(
        found, expected, str(source), optional, remedy="use the network settings of that bundle"
    )
    for part in PARTS:
        own = [name for name in found if name.startswith(f"{part}.")]
        if own:
            stripped = {name.removeprefix(f"{part}."): found[name] for name in own}
            assign_tensors(getattr(networks, part), stripped, keep_dtype=False)
    return missing


def _flatten(moments: Mapping[str, OptimizerMoments]) -> dict[str, Tensor]:
    return {
        f"{engine}/{moment}/{name}": tensor
        for engine, m in moments.items()
        for moment, tensors in (("first", m.first), ("second", m.second))
        for name, tensor in tensors.items()
    }


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"cannot read {path}: {error}", "copy the bundle again") from None
