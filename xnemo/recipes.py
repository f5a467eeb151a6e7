"""Recipes: named configurations of training runs."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from preprocessing.errors import UserError
from xnemo.data.config import AugmentConfig, DataConfig, PairConfig
from xnemo.diffusion.schedule import DiffusionConfig
from xnemo.model import config as networks
from xnemo.model.builtin import BUILTIN
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
    """A named configuration."""

    # Purpose, in one line.
    description: str
    # Builds the configuration.
    build: Callable[[], TrainConfig]


def tiny() -> TrainConfig:
    """Return a run of all networks at 64 pixels that takes minutes on two CPU cores."""
    return TrainConfig(
        network=networks.tiny(),
        diffusion=DiffusionConfig(
            prediction_type="sample",
            zero_terminal_snr=True,
            timestep_bias=2.0,
            # Predictions of clean latents settle in few steps; guidance saturates their colours.
            sampling_steps=8,
            sampling_guidance=1.0,
        ),
        data=DataConfig(pairs=PairConfig(frames=2), prefetch=4),
        # Few identities are soon memorised; colour changes add variety.
        augment=AugmentConfig(appearance=0.3),
        # At this size each token is the only one of its position: masking would leave holes.
        condition=ConditionConfig(reference_masking=0.0),
        # The discriminator's features are of little use within minutes.
        loss=LossConfig(
            gan=0.3,
            l1=2.0,
            perceptual=0.0,
            feature_matching=0.17,
            adversarial=0.05,
            # Within minutes the heads alone teach the encoder nothing.
            motion=1.0,
        ),
        optimizer=OptimizerConfig(
            kind="fused",
            lr=7e-4,
            # The rest is initialised to copy the reference; the motion path is not.
            motion_lr_scale=5.0,
            gan_lr=7e-4,
            discriminator_lr=7e-4,
            # The first gradients are by far the largest; a higher beta2 would keep steps small for
            # the whole run.
            betas=(0.9, 0.97),
            weight_decay=0.0,
            warmup_samples=200,
            schedule="cosine",
            final_share=0.1,
        ),
        # Synchronised batch norms would take CPU workers longer than the networks do.
        engine=EngineConfig(kind="deepspeed", zero_stage=2, batch_norm="local"),
        checkpoint=CheckpointConfig(every_samples=2_000, keep_last=2),
        samples=3_200,
        global_batch=16,
        micro_batch=8,
        log_every=10,
    )


def mini_motion() -> TrainConfig:
    """Return the motion stage of `mini`: minutes on two CPU cores."""
    base = tiny()
    return replace(
        base,
        network=networks.mini(),
        stage="motion",
        # A clip is decoded once for several frames.
        data=replace(base.data, pairs=PairConfig(frames=8)),
        loss=LossConfig(motion=1.0),
        optimizer=OptimizerConfig(
            kind="fused", lr=2e-3, warmup_samples=800, schedule="cosine", final_share=0.02
        ),
        validation=ValidationConfig(every_samples=4_000, samples=128),
        checkpoint=CheckpointConfig(every_samples=4_000, keep_last=2),
        # Not bf16: it is twice as fast on CPUs with AMX, and ten times slower on those without.
        engine=EngineConfig(batch_norm="local"),
        samples=24_000,
        global_batch=8,
        micro_batch=8,
        log_every=20,
    )


def mini() -> TrainConfig:
    """Return the denoiser at 64 pixels, hours on a CPU, on the encoder of a `mini-motion` bundle.

    The encoder stays as it is and there is no GAN head: a denoiser from fresh weights first has to
    learn to read the latent, and until then its gradient only disturbs a good encoder.
    """
    base = tiny()
    return replace(
        base,
        network=networks.mini(),
        data=replace(
            base.data,
            pairs=PairConfig(frames=2, matched=0.5),
            framing="portrait",
            constant_box_probability=0.0,
        ),
        augment=AugmentConfig(),
        loss=LossConfig(gan=0.0, perceptual=0.0),
        optimizer=OptimizerConfig(
            kind="fused",
            lr=5e-4,
            motion_lr_scale=3.0,
            encoder_lr_scale=0.0,
            betas=(0.9, 0.98),
            warmup_samples=200,
            schedule="cosine",
            final_share=0.02,
        ),
        engine=EngineConfig(batch_norm="local"),
        validation=ValidationConfig(every_samples=4_000, samples=64),
        samples=50_000,
        global_batch=32,
        micro_batch=16,
    )


def mini_finetune() -> TrainConfig:
    """Return a fine-tune of the model in the package on your own clips, a minute on a CPU."""
    base = mini()
    return replace(
        base,
        init_from=BUILTIN,
        data=replace(base.data, pairs=PairConfig(frames=2)),
        optimizer=replace(base.optimizer, lr=1e-4, warmup_samples=64),
        validation=ValidationConfig(),
        samples=320,
        global_batch=16,
        micro_batch=8,
        log_every=1,
    )


def motion() -> TrainConfig:
    """Return the motion stage at the published size; start `image` from its bundle."""
    base = image()
    return replace(
        base,
        network=replace(base.network, motion=replace(base.network.motion, standardise=True)),
        stage="motion",
        data=replace(base.data, pairs=PairConfig(frames=8)),
        loss=LossConfig(motion=1.0),
        optimizer=OptimizerConfig(lr=5e-4, warmup_samples=2_000, schedule="cosine"),
        validation=ValidationConfig(every_samples=10_000, samples=256),
        samples=100_000,
        global_batch=16,
        micro_batch=4,
    )


def small() -> TrainConfig:
    """Return the image stage at 256² and a quarter of the published width, for one GPU."""
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
    """Return stage 1 at the published size: all networks but the temporal modules, jointly."""
    network = networks.full()
    return TrainConfig(
        network=replace(network, unet=replace(network.unet, temporal=False)),
        data=DataConfig(workers=4),
        optimizer=OptimizerConfig(lr=1e-5, warmup_samples=16_000),
        engine=EngineConfig(
            kind="deepspeed", zero_stage=2, precision="bf16", gradient_checkpointing=True
        ),
        validation=ValidationConfig(every_samples=50_000),
        # 80 000 steps of 32 samples, as in the one published follow-up of this network.
        samples=2_560_000,
        global_batch=32,
        micro_batch=4,
    )


def temporal() -> TrainConfig:
    """Return stage 2: temporal modules only, on clips; start it from an image bundle."""
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
    """Return a short image stage with low learning rates; start it from a bundle."""
    base = image()
    return replace(
        base,
        optimizer=OptimizerConfig(
            lr=2e-6, gan_lr=2e-4, discriminator_lr=5e-5, warmup_samples=1_000
        ),
        # Batch statistics of a small data set differ too much from the encoder's running ones.
        engine=replace(base.engine, batch_norm="frozen"),
        checkpoint=CheckpointConfig(every_samples=10_000),
        samples=100_000,
    )


RECIPES: dict[str, Recipe] = {
    "tiny": Recipe("all networks at 64 pixels from fresh weights, minutes on a CPU", tiny),
    "mini-motion": Recipe(
        "motion encoder of mini alone, on synthetic people's exact motion, minutes on a CPU",
        mini_motion,
    ),
    "mini": Recipe(
        "denoiser at 64 pixels on the encoder of a mini-motion bundle, hours on a CPU", mini
    ),
    "mini-finetune": Recipe(
        "the model in the package on your own clips, a minute on a CPU; used by the demo",
        mini_finetune,
    ),
    "motion": Recipe(
        "motion encoder alone at the published size, on exact motion; before image", motion
    ),
    "small": Recipe(
        "image stage at 256 pixels and a quarter of the published width, for one GPU", small
    ),
    "image": Recipe("stage 1 at the published size: all networks but the temporal modules", image),
    "temporal": Recipe(
        "stage 2 at the published size: temporal modules only, on clips of 16 frames", temporal
    ),
    "finetune": Recipe(
        "image stage with low learning rates on your own clips, from a bundle", finetune
    ),
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


def train(
    recipe: str | TrainConfig,
    data: str | Sequence[str],
    run_dir: str | Path,
    *,
    resume: Literal["auto", "must", "never"] = "auto",
) -> Path:
    """Train in this process, without Ray and MLflow, and return the folder of the trained bundle.

    `xnemo train` runs the same loop on any number of workers.

    Args:
        recipe: Name of a recipe, or a configuration.
        data: Folders or URLs of preprocessed data sets.
        run_dir: Folder of this run.
        resume: "auto" resumes from the newest checkpoint in the folder, if any; "must" requires
            one; "never" requires a folder without checkpoints.

    Raises:
        UserError: The recipe does not exist, or settings, data or weights do not fit.
    """
    from xnemo.training.loop import run_training
    from xnemo.training.preflight import check_run

    config = get_recipe(recipe) if isinstance(recipe, str) else recipe
    check_run(config, [data] if isinstance(data, str) else data, Path(run_dir))
    run_training(config, data, run_dir, resume=resume)
    return Path(run_dir) / "bundle"
