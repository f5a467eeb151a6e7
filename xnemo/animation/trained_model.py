"""A trained model from disk, ready to animate, whoever trained it."""

from dataclasses import dataclass
from pathlib import Path

from xnemo.diffusion.schedule import DiffusionConfig
from xnemo.diffusion.scheduler import SCHEDULER_FOLDER, read_scheduler
from xnemo.model.config import FrozenPaths, NetworkConfig, full
from xnemo.model.loading.official import find_official_files, load_official
from xnemo.model.networks import CONFIG_FILE, Networks, empty_networks, initialise_missing
from xnemo.training.checkpoint.bundle import Weights, load_bundle


@dataclass(frozen=True)
class TrainedModel:
    """What `load_trained` returns."""

    # All networks, in evaluation mode, on the CPU.
    networks: Networks
    # Forward process that the denoiser was trained with.
    diffusion: DiffusionConfig


def load_trained(
    path: str | Path,
    weights: Weights = "ema",
    paths: FrozenPaths | None = None,
    shape: NetworkConfig | None = None,
) -> TrainedModel:
    """Load a bundle, a folder of the four official files, or a saved pipeline.

    Args:
        path: The folder.
        weights: Which weights of a bundle; the others have but one kind.
        paths: Where autoencoder and image embedding lie on this machine.
        shape: Of the official files, which do not tell it; the published one if not given.

    Raises:
        UserError: It is none of these, or something in it is missing, damaged or does not fit.
    """
    folder = Path(path).expanduser()
    paths = paths or FrozenPaths()
    if any(folder.glob("xnemo_*.pth")):
        files = find_official_files(folder)
        networks = empty_networks(paths.apply_to(shape or full()), training=False)
        load_official(networks, files)
        initialise_missing(networks)
        return TrainedModel(networks.eval(), DiffusionConfig())
    if (folder / CONFIG_FILE).is_file():
        networks = Networks.load(folder, training=False, paths=paths).eval()
        return TrainedModel(networks, _saved_diffusion(folder / SCHEDULER_FOLDER))
    bundle = load_bundle(folder, weights, paths)
    return TrainedModel(bundle.networks, bundle.config.diffusion)


def _saved_diffusion(folder: Path) -> DiffusionConfig:
    """Return the forward process of a saved scheduler, or the release's where none was saved."""
    if not folder.is_dir():
        return DiffusionConfig()
    saved = read_scheduler(folder).config
    names = DiffusionConfig.SCHEDULER_NAMES.items()
    return DiffusionConfig(**{name: saved[theirs] for name, theirs in names if theirs in saved})
