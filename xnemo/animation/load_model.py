"""Load a trained model for animation, in any of the formats it is published in."""

from dataclasses import dataclass
from pathlib import Path

from xnemo.diffusion.schedule import DiffusionConfig
from xnemo.diffusion.scheduler import SCHEDULER_FOLDER, read_scheduler
from xnemo.model.builtin import model_folder
from xnemo.model.config import FrozenPaths, NetworkConfig, full
from xnemo.model.loading.official import find_official_files, load_official
from xnemo.model.networks import CONFIG_FILE, Networks, empty_networks, initialise_missing
from xnemo.training.checkpoint.bundle import Weights, load_bundle


@dataclass(frozen=True)
class LoadedModel:
    """A trained model, ready for `Animator`."""

    # All networks, in evaluation mode, on the CPU.
    networks: Networks
    # Forward process that the denoiser was trained with.
    diffusion: DiffusionConfig
    # Frames that the temporal modules were trained on at once; None if unknown.
    window: int | None = None


def load_model(
    path: str | Path,
    weights: Weights = "ema",
    *,
    vae: str | None = None,
    image_embedding: str | None = None,
    shape: NetworkConfig | None = None,
) -> LoadedModel:
    """Load a bundle, a folder with the four official files, or a saved pipeline.

    Args:
        path: The folder, or "builtin".
        weights: Averaged ("ema") or raw weights of a bundle; the other formats have one kind.
        vae: Folder or hub name of the autoencoder, if it is not where the model says.
        image_embedding: The same for the image embedding.
        shape: Network configuration of official files, which do not contain it; the published one
            by default.

    Raises:
        UserError: The folder has none of these formats, or a file in it is missing, damaged or
            does not fit.
    """
    folder = model_folder(path)
    paths = FrozenPaths(vae, image_embedding)
    if any(folder.glob("xnemo_*.pth")):
        files = find_official_files(folder)
        networks = empty_networks(paths.apply_to(shape or full()), training=False)
        load_official(networks, files)
        initialise_missing(networks)
        return LoadedModel(networks.eval(), DiffusionConfig())
    if (folder / CONFIG_FILE).is_file():
        networks = Networks.load(folder, training=False, paths=paths).eval()
        return LoadedModel(networks, _saved_diffusion(folder / SCHEDULER_FOLDER))
    bundle = load_bundle(folder, weights, paths)
    return LoadedModel(bundle.networks, bundle.config.diffusion, bundle.window)


def _saved_diffusion(folder: Path) -> DiffusionConfig:
    """Return the forward process of a saved scheduler, or the release's where none was saved."""
    if not folder.is_dir():
        return DiffusionConfig()
    saved = read_scheduler(folder).config
    names = DiffusionConfig.SCHEDULER_NAMES.items()
    return DiffusionConfig(**{name: saved[theirs] for name, theirs in names if theirs in saved})
