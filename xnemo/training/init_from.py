"""Initial weights of a run, from a bundle or from the files of other projects."""

import logging
from pathlib import Path

from preprocessing.errors import UserError
from xnemo.diffusion.schedule import DiffusionConfig
from xnemo.model.builtin import model_folder
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

# A folder with any of these is a bundle, possibly damaged.
_BUNDLE_FILES = ("bundle.json", "raw.safetensors", "ema.safetensors")


def load_init_from(
    networks: Networks,
    init_from: str,
    weights: Weights,
    diffusion: DiffusionConfig,
    *,
    verify: bool = True,
) -> None:
    """Load the weights that `init_from` names; parts without weights there keep their values.

    Args:
        networks: where to load.
        init_from: a bundle ("builtin": that of this package), one of its safetensors files, or the
            folder of a run or checkpoint; a Stable Diffusion 1.x folder or UNet file; the folder of
            the official files; an AnimateDiff motion module.
        weights: which weights of a bundle.
        diffusion: the run's settings; a bundle with another prediction type causes a warning.
        verify: compare a bundle's files with their checksums; one worker is enough.

    Raises:
        UserError: nothing is there, it is of an unknown kind, or it does not fit; then nothing is
            loaded.
    """
    path = resolve_init_from(init_from)
    bundle = _find_bundle(path)
    if bundle is None:
        kind = load_starting_weights(networks, path)
        log.info("starting from %s in %s", kind, path)
        return
    if path.stem in ("raw", "ema"):
        weights = path.stem  # type: ignore[assignment]
    meta = read_meta(bundle, verify=verify)
    bundle_type = bundle_config(bundle, meta).diffusion.prediction_type
    if bundle_type != diffusion.prediction_type:
        log.warning(
            "%s predicts %s and this run trains %s, so its weights have to adapt first; to avoid "
            "that set diffusion.prediction_type=%s",
            bundle,
            bundle_type,
            diffusion.prediction_type,
            bundle_type,
        )
    missing = load_weights(networks, read_weights(bundle, weights, meta), bundle, to_train=True)
    log.info("starting from %s; without weights there: %s", bundle, ", ".join(missing) or "nothing")


def resolve_init_from(init_from: str) -> Path:
    """Return the path that `init_from` names.

    Raises:
        UserError: it does not exist.
    """
    path = model_folder(init_from)
    if not path.exists():
        raise UserError(
            f"init_from={init_from}: no such file or folder",
            "pass a bundle, builtin, a Stable Diffusion 1.x folder or file, or the official folder",
        )
    return path


def _find_bundle(path: Path) -> Path | None:
    """Return the bundle at a path, in the folder of a run or checkpoint, or of one of its files."""
    for folder in (path, path / "bundle"):
        if any((folder / name).is_file() for name in _BUNDLE_FILES):
            return folder
    if path.name in _BUNDLE_FILES:
        return path.parent
    return None
