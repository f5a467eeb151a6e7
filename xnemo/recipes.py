"""Recipes: functions that return a run's configuration."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace

from preprocessing.errors import UserError
from xnemo.data.config import AugmentConfig, DataConfig, PairConfig
from xnemo.diffusion.schedule import DiffusionConfig
from xnemo.model import config as networks
from xnemo.training.config import (
    CheckpointConfig,
    ConditionConfig,
    EngineConfig,
    LossConfig,
    OptimizerConfig,
    TrainConfig,
    ValidationConfig,
)


@dataclass(frozen=True)
class Recipe:
    """A named starting point."""

    # What it is for, in one line.
    description: str
    # Builds its configuration.
    build: Callable[[], TrainConfig]


def tiny() -> TrainConfig:
    """Return a run of every part at 64 pixels that two CPU cores finish in minutes."""
    return TrainConfig(
        network=networks.tiny(),
        diffusion=DiffusionConfig(
            prediction_type="sample", zero_terminal_snr=True, timestep_bias=2.0
        ),
        data=DataConfig(pairs=PairConfig(frames=2), prefetch=4),
        # Six people are soon known by heart; mirrored, and in other colours, they are more.
        augment=AugmentConfig(appearance=0.3, mirror=0.5),
        # Each token is the only one of its place: of a picture with holes less can be copied.
        condition=ConditionConfig(reference_masking=0.0),
        # The discriminator's features mean little within minutes.
        loss=LossConfig(
            gan=0.3,
            l1=2.0,
            perceptual=0.0,
            feature_matching=0.5,
            adversarial=0.05,
            # In minutes the heads teach the encoder nothing that holds for strangers; this does.
            face_change=3.0,
        ),
        optimizer=OptimizerConfig(
            kind="fused",
            lr=7e-4,
            # The rest begins by copying well and has little to learn; this begins with nothing.
            motion_lr_scale=5.0,
            gan_lr=7e-4,
            discriminator_lr=7e-4,
            # The first gradients are the largest by far; a long memory of them keeps steps small
            # for as long as this run lasts.
            betas=(0.9, 0.97),
            weight_decay=0.0,
            warmup_samples=200,
            schedule="cosine",
            final_share=0.1,
        ),
        # Statistics of each worker's own samples: two exchanges per norm and direction cost CPU
        # workers more than the networks do.
        engine=EngineConfig(kind="deepspeed", zero_stage=2, batch_norm="local"),
        checkpoint=CheckpointConfig(every_samples=2_000, keep_last=2),
        samples=3_200,
        global_batch=16,
        micro_batch=8,
        log_every=10,
    )


def small() -> TrainConfig:
    """Return a 256² run for one GPU at a quarter of the published width."""
    return replace(
        image(),
        network=replace(networks.small(), unet=replace(networks.small().unet, temporal=False)),
        optimizer=OptimizerConfig(lr=1e-4, warmup_samples=5_000),
        engine=EngineConfig(precision="bf16"),
        checkpoint=CheckpointConfig(every_samples=50_000),
        samples=1_000_000,
        micro_batch=16,
    )


def image() -> TrainConfig:
    """Return stage 1 at the published size: everything but temporal modules, jointly."""
    network = networks.full()
    return TrainConfig(
        network=replace(network, unet=replace(network.unet, temporal=False)),
        data=DataConfig(workers=4),
        optimizer=OptimizerConfig(lr=1e-5, warmup_samples=16_000),
        engine=EngineConfig(
            kind="deepspeed", zero_stage=2, precision="bf16", gradient_checkpointing=True
        ),
        validation=ValidationConfig(every_samples=50_000),
        # 80 000 steps of 32, as the one published follow-up of this network.
        samples=2_560_000,
        global_batch=32,
        micro_batch=4,
    )


def temporal() -> TrainConfig:
    """Return the last stage: temporal modules alone, on clips; start it from an image bundle."""
    base = image()
    return replace(
        base,
        network=networks.full(),
        data=replace(
            base.data, pairs=PairConfig(layout="window", frames=16), constant_box_probability=0.1
        ),
        stage="temporal",
        samples=240_000,
        global_batch=8,
        micro_batch=1,
    )


def finetune() -> TrainConfig:
    """Return a short, gentle image stage on your own data; start it from a bundle."""
    base = image()
    return replace(
        base,
        optimizer=OptimizerConfig(
            lr=2e-6, gan_lr=2e-4, discriminator_lr=5e-5, warmup_samples=1_000
        ),
        # A small set of faces moves batch statistics too far from what the encoder was trained
        # with.
        engine=replace(base.engine, batch_norm="frozen"),
        checkpoint=CheckpointConfig(every_samples=10_000),
        samples=100_000,
    )


RECIPES: dict[str, Recipe] = {
    "tiny": Recipe("every part at 64 pixels, on a CPU in minutes; what the demo runs", tiny),
    "small": Recipe("image stage at 256 pixels and a quarter of the width, for one GPU", small),
    "image": Recipe("stage 1 at the published size: both heads, all but temporal modules", image),
    "temporal": Recipe("last stage: temporal modules alone, on clips of 16 frames", temporal),
    "finetune": Recipe("a gentle image stage on your own clips, from a bundle", finetune),
}


def get_recipe(name: str) -> TrainConfig:
    """Return the configuration of a recipe by name.

    Raises:
        UserError: there is no such recipe.
    """
    if name in RECIPES:
        return RECIPES[name].build()
    near = difflib.get_close_matches(name, RECIPES, n=1)
    hint = f"did you mean {near[0]}?" if near else f"recipes are {', '.join(RECIPES)}"
    raise UserError(f"there is no recipe {name!r}", hint)
