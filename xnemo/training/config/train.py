"""The configuration of a training run."""

from dataclasses import dataclass, field, replace
from typing import Literal

from preprocessing.errors import UserError, require_at_least
from xnemo.data.config import AugmentConfig, DataConfig
from xnemo.diffusion.schedule import DiffusionConfig
from xnemo.model.config import NetworkConfig
from xnemo.model.frozen.perceptual import PerceptualConfig
from xnemo.training.config.losses import ConditionConfig, LossConfig
from xnemo.training.config.optimizer import EmaConfig, OptimizerConfig
from xnemo.training.config.run import (
    CheckpointConfig,
    EngineConfig,
    GuardConfig,
    ValidationConfig,
)


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    # Shapes of all networks.
    network: NetworkConfig
    # Noise schedule, prediction type and loss weighting.
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    # Which clips are read, and how.
    data: DataConfig = field(default_factory=DataConfig)
    # Augmentation of the driving crop.
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    # Random removal of the denoiser's conditions.
    condition: ConditionConfig = field(default_factory=ConditionConfig)
    # Weights of the losses.
    loss: LossConfig = field(default_factory=LossConfig)
    # VGG network of the perceptual loss.
    perceptual: PerceptualConfig = field(default_factory=PerceptualConfig)
    # Optimiser and learning rates.
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    # Weight averaging.
    ema: EmaConfig = field(default_factory=EmaConfig)
    # Device, precision and parallelism.
    engine: EngineConfig = field(default_factory=EngineConfig)
    # Checkpoints and uploads.
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    # Losses on held-out clips.
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    # Limits that skip steps, warn or stop the run.
    guards: GuardConfig = field(default_factory=GuardConfig)
    # "motion" trains the motion encoder to predict motion numbers, see loss.motion; "image" trains
    # all networks but the temporal modules; "temporal" trains the temporal modules.
    stage: Literal["motion", "image", "temporal"] = "image"
    # Initial weights: a bundle ("builtin": that of this package), a Stable Diffusion 1.x folder or
    # UNet file, the folder of the official files, or an AnimateDiff motion module. Parts without
    # weights there are initialised at random; empty initialises all parts at random.
    init_from: str | None = None
    # Which weights of a bundle to start from.
    init_weights: Literal["ema", "raw"] = "ema"
    # Seed of every random number of the run.
    seed: int = 0
    # Length of the run in samples; `--max-steps N` sets it to N * global_batch.
    samples: int = 1_000_000
    # Samples per optimiser step over all workers. More workers mean less gradient accumulation.
    global_batch: int = 32
    # Largest number of samples per forward pass on one worker.
    micro_batch: int = 4
    # Optimiser steps between lines of the log.
    log_every: int = 10

    def __post_init__(self) -> None:
        """Check ranges and combinations."""
        require_at_least("", self, samples=1, global_batch=1, micro_batch=1, log_every=1, seed=0)
        pairs = self.data.pairs
        alone = self.micro_batch * pairs.frames == 1 and self.engine.batch_norm != "frozen"
        if self.network.motion.standardise and alone and self.stage != "temporal":
            raise UserError(
                "network.motion.standardise requires statistics over at least 2 frames per pass",
                "set micro_batch or data.pairs.frames to 2 or more",
            )
        if self.stage == "motion" and self.loss.motion == 0:
            raise UserError("the motion stage has no loss: loss.motion is 0", "set loss.motion=1")
        if self.uses_motion_readout and self.augment.mirror > 0:
            raise UserError(
                f"augment.mirror is {self.augment.mirror} and loss.motion {self.loss.motion}, but "
                "mirrored frames have other motion numbers",
                "set augment.mirror=0, or loss.motion=0",
            )
        if self.stage == "temporal":
            if pairs.layout != "window" or pairs.frames < 2:
                raise UserError(
                    f"the temporal stage cannot train on {pairs.frames} {pairs.layout} frame(s)",
                    "set data.pairs.layout=window and data.pairs.frames=16",
                )
            if not self.network.unet.temporal:
                raise UserError(
                    "the temporal stage requires temporal modules", "set network.unet.temporal=true"
                )
            if pairs.frames > self.network.unet.max_frames:
                raise UserError(
                    f"data.pairs.frames is {pairs.frames}, above network.unet.max_frames",
                    f"set it to {self.network.unet.max_frames} or less",
                )

    @property
    def uses_gan_head(self) -> bool:
        """Whether the run trains the GAN head and its discriminator."""
        return self.stage == "image" and self.loss.gan > 0

    @property
    def uses_motion_readout(self) -> bool:
        """Whether the run trains the motion readout."""
        return self.stage != "temporal" and self.loss.motion > 0


def with_max_steps(
    config: TrainConfig, max_steps: int | None, *, samples_given: bool = False
) -> TrainConfig:
    """Return `config` with its length set to `max_steps` optimiser steps.

    Args:
        config: a resolved configuration.
        max_steps: number of optimiser steps of `global_batch` samples; None keeps `samples`.
        samples_given: whether the user also set `samples`, which is ambiguous.

    Raises:
        UserError: `max_steps` is below 1, or both lengths are given.
    """
    if max_steps is None:
        return config
    if samples_given:
        raise UserError("both --max-steps and samples are given", "give only one of them")
    if max_steps < 1:
        raise UserError(f"--max-steps is {max_steps}", "set it to 1 or more")
    return replace(config, samples=max_steps * config.global_batch)
