"""The weights a run starts with: a bundle of ours, or the checkpoints of others."""

import logging
from pathlib import Path

from preprocessing.errors import UserError
from xnemo.diffusion.schedule import DiffusionConfig
from xnemo.model.loading.starting_weights import load_starting_weights
from xnemo.model.networks import Networks
from xnemo.training.checkpoint.bundle import (
    Weights,
    bundle_config,
    load_weights,
    read_meta,
    read_weights,
)

log = logging.getLogger(__name__)

# Any of these makes a folder a bundle, sound or damaged.
_BUNDLE_FILES = ("bundle.json", "raw.safetensors", "ema.safetensors")


def load_start(
    networks: Networks, init_from: str, weights: Weights, diffusion: DiffusionConfig
) -> None:
    """Load what `init_from` names; parts that it lacks keep their fresh values.

    Args:
        networks: what to load into.
        init_from: a bundle, a run or a checkpoint with a bundle, a bundle's safetensors; a Stable
            Diffusion 1.x folder or UNet file; the folder of the official files; an AnimateDiff
            motion module.
        weights: which weights of a bundle; others have but one kind.
        diffusion: what the run is to predict; a bundle that predicts something else is told of.

    Raises:
        UserError: there is nothing, nothing known, or something that does not fit; one line, and
            nothing is loaded.
    """
    place = find_start_place(init_from)
    bundle = _find_bundle(place)
    if bundle is None:
        kind = load_starting_weights(networks, place)
        log.info("starting from %s in %s", kind, place)
        return
    if place.stem in ("raw", "ema"):
        weights = place.stem  # type: ignore[assignment]
    meta = read_meta(bundle)
    theirs = bundle_config(bundle, meta).diffusion.prediction_type
    if theirs != diffusion.prediction_type:
        log.warning(
            "%s predicts %s and this run trains %s, so it unlearns first what it starts from; "
            "diffusion.prediction_type=%s goes on alike",
            bundle,
            theirs,
            diffusion.prediction_type,
            theirs,
        )
    fresh = load_weights(networks, read_weights(bundle, weights, meta), bundle)
    log.info("starting from %s; fresh: %s", bundle, ", ".join(fresh) or "nothing")


def find_start_place(init_from: str) -> Path:
    """Return where `init_from` is on this machine.

    Raises:
        UserError: there is nothing.
    """
    place = Path(init_from).expanduser()
    if not place.exists():
        raise UserError(
            f"init_from={init_from}: no such file or folder",
            "give a bundle, a Stable Diffusion 1.x folder or file, or the official files' folder",
        )
    return place


def _find_bundle(place: Path) -> Path | None:
    """Return the bundle at a path, inside a run's or checkpoint's folder, or around a file."""
    for folder in (place, place / "bundle"):
        if any((folder / name).is_file() for name in _BUNDLE_FILES):
            return folder
    if place.name in _BUNDLE_FILES:
        return place.parent
    return None
