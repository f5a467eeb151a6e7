"""Refusal of unusable settings, weights and data before workers start."""

from collections.abc import Sequence
from pathlib import Path

import torch

from preprocessing.errors import UserError
from xnemo.data.clip_table import open_clips
from xnemo.data.sample_reader import SampleReader
from xnemo.model.compiling import require_compiling
from xnemo.model.frozen.autoencoder import FIXED, RANDOM
from xnemo.model.frozen.perceptual import require_weights
from xnemo.model.frozen.pretrained_folder import require_folder
from xnemo.training.config import TrainConfig
from xnemo.training.engines.optimizer import require_optimizer
from xnemo.training.init_from import resolve_init_from
from xnemo.training.setup import image_sizes


def check_data(config: TrainConfig, roots: Sequence[str]) -> None:
    """Refuse data that the run could not read.

    Raises:
        UserError: a data set is missing or damaged, a filter selects no clip that is long enough,
            weights do not match the data sets, or matched pairs are impossible.
    """
    least = config.data.pairs.least_frames
    clips = open_clips(roots, config.data.filter, min_frames=least)
    SampleReader(clips, config.data, config.augment, image_sizes(config), seed=config.seed)
    if config.validation.every_samples:
        open_clips(roots, config.validation.filter, min_frames=least)


def check_weights(config: TrainConfig, *, resumed: bool) -> None:
    """Refuse weights that are not on this machine, before anything is loaded.

    Names of the Hugging Face hub are not looked up.

    Args:
        config: the resolved configuration.
        resumed: whether the run has a checkpoint, so that `init_from` is not needed.

    Raises:
        UserError: a file or folder is missing, or weights that the run keeps would be random.
    """
    network = config.network
    if config.init_from is not None and not resumed:
        resolve_init_from(config.init_from)
    if config.init_from is None and not resumed:
        _refuse_frozen_random_weights(config)
    autoencoder, embedding = network.autoencoder, network.image_embedding
    if autoencoder.kind not in FIXED and autoencoder.path not in (None, RANDOM):
        require_folder(str(autoencoder.path), "autoencoder.path")
    if embedding.kind == "clip" and embedding.path not in (None, RANDOM):
        require_folder(str(embedding.path), "image_embedding.path")
    if config.uses_gan_head and config.loss.perceptual > 0:
        require_weights(config.perceptual)


def _refuse_frozen_random_weights(config: TrainConfig) -> None:
    frozen = {
        "stage=temporal keeps all networks but the temporal modules": config.stage == "temporal",
        "optimizer.encoder_lr_scale=0 keeps the motion encoder": (
            config.optimizer.encoder_lr_scale == 0
        ),
        "engine.batch_norm=frozen keeps the statistics of the motion encoder": (
            config.engine.batch_norm == "frozen"
        ),
    }
    for what, holds in frozen.items():
        if holds:
            raise UserError(
                f"{what} as random as they start, because init_from is empty",
                "start from a trained model: --init-from BUNDLE",
            )


def check_machine(config: TrainConfig) -> None:
    """Refuse what this machine cannot do.

    Raises:
        UserError: there is no GPU, compiler or optimiser that the settings ask for.
    """
    device = config.engine.device
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "engine.device is cuda and this machine has no usable GPU", "set engine.device=auto"
        )
    require_optimizer(config.optimizer)
    if config.engine.compile:
        on_gpu = device != "cpu" and torch.cuda.is_available()
        require_compiling("cuda" if on_gpu else "cpu")


def check_run(config: TrainConfig, roots: Sequence[str], run_dir: Path) -> None:
    """Refuse whatever this process can see that a run on this machine could not use.

    Raises:
        UserError: see `check_data`, `check_weights` and `check_machine`.
    """
    resumed = (run_dir / "checkpoints").is_dir() and any((run_dir / "checkpoints").iterdir())
    check_weights(config, resumed=resumed)
    check_machine(config)
    check_data(config, roots)
