"""Everything that decides a training run."""

from dataclasses import dataclass, field, replace
from typing import Literal

from preprocessing.errors import UserError, require_at_least
from xnemo.data.config import AugmentConfig, DataConfig
from xnemo.diffusion.schedule import DiffusionConfig
from xnemo.model.config import NetworkConfig
from xnemo.model.frozen.perceptual import PerceptualConfig
from xnemo.training.loss_config import ConditionConfig, LossConfig
from xnemo.training.optimizer_config import EmaConfig, OptimizerConfig


@dataclass(frozen=True)
class EngineConfig:
    """Where and how the arithmetic is done."""

    # "torch": plain PyTorch, DistributedDataParallel with several workers. "deepspeed": ZeRO.
    kind: Literal["torch", "deepspeed"] = "torch"
    # What ZeRO shards: 1 optimiser state, 2 also gradients, 3 also parameters.
    zero_stage: Literal[1, 2, 3] = 2
    # "auto" takes a GPU where there is one.
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # "bf16" calculates the networks in bfloat16; weights, gradients, norms' statistics and
    # reductions stay in fp32.
    precision: Literal["fp32", "bf16"] = "fp32"
    # Recompute activations in the backward pass: less memory, a third more time.
    gradient_checkpointing: bool = False
    # Compile the denoiser and the reference network block by block. On a CPU torch wants a C++
    # compiler, and to lie in a path without a space.
    compile: bool = False
    # Statistics of the motion encoder's batch norms. "synced" takes them over all workers' samples
    # of a pass, "local" over each worker's own, "frozen" uses the running ones and switches its
    # dropout off. Synced costs two small exchanges per norm and direction, and makes a run's
    # meaning independent of how its batch is split over workers; with accumulation, statistics are
    # those of a pass, so that passes of few samples train another encoder. Frozen knows no such
    # difference.
    batch_norm: Literal["synced", "local", "frozen"] = "synced"
    # Peak rate in TFLOP/s that MFU is measured against; empty measures a matrix product at the
    # start.
    peak_tflops: float | None = None

    def __post_init__(self) -> None:
        """Refuse a rate that cannot be divided by."""
        if self.peak_tflops is not None and self.peak_tflops <= 0:
            raise UserError(
                f"engine.peak_tflops is {self.peak_tflops}", "set it above 0, or leave it empty"
            )


@dataclass(frozen=True)
class CheckpointConfig:
    """What is saved, and when."""

    # Samples between checkpoints.
    every_samples: int = 100_000
    # Checkpoints kept; older ones are deleted.
    keep_last: int = 3
    # Keep the one with the lowest validation loss as well.
    keep_best: bool = True
    # Also save each worker's own part, which the same number of workers loads faster.
    engine_shards: bool = True
    # Folder or store (any fsspec URL) to which finished checkpoints' bundles are copied, below the
    # run's name; empty copies nowhere. `xnemo train` on a machine that has nothing of the run goes
    # on from there.
    upload: str | None = None

    def __post_init__(self) -> None:
        """Refuse counts below one."""
        require_at_least("checkpoint.", self, every_samples=1, keep_last=1)


@dataclass(frozen=True)
class ValidationConfig:
    """Losses on held-out clips with fixed noise."""

    # Samples between validations; 0 never validates.
    every_samples: int = 0
    # Held-out samples, the same each time.
    samples: int = 64
    # Which rows of the index are held out.
    filter: str = "split == 'val'"

    def __post_init__(self) -> None:
        """Refuse negative counts."""
        require_at_least("validation.", self, every_samples=0, samples=1)


@dataclass(frozen=True)
class GuardConfig:
    """When to skip a step, to warn, and to stop."""

    # Skipped steps (non-finite loss or gradient) in a row that stop the run.
    max_skipped_steps: int = 10
    # A loss this many times the median of the last hundred steps is reported as a spike.
    spike_factor: float = 5.0
    # A motion latent that differs by less than this between the frames of a pass is reported as
    # silent: whatever the driver does, the networks see one motion.
    silent_motion: float = 1e-4
    # Seconds without progress after which the stuck stage is named, and every thread's stack
    # written.
    stall_seconds: float = 600.0
    # Seconds without progress after which the process ends, so that a scheduler restarts it; 0
    # never.
    stall_exit_seconds: float = 0.0

    def __post_init__(self) -> None:
        """Refuse limits that would fire at once."""
        require_at_least(
            "guards.",
            self,
            max_skipped_steps=1,
            spike_factor=1,
            silent_motion=0,
            stall_exit_seconds=0,
        )
        if self.stall_seconds <= 0:
            raise UserError(f"guards.stall_seconds is {self.stall_seconds}", "set it above 0")


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    # Shapes of all networks.
    network: NetworkConfig
    # Noise schedule, prediction type and loss weighting.
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    # What is read.
    data: DataConfig = field(default_factory=DataConfig)
    # How the driving crop is disturbed.
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    # What is hidden from the denoiser.
    condition: ConditionConfig = field(default_factory=ConditionConfig)
    # Weights of the losses.
    loss: LossConfig = field(default_factory=LossConfig)
    # Which VGG the perceptual loss uses.
    perceptual: PerceptualConfig = field(default_factory=PerceptualConfig)
    # Optimiser and learning rate.
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    # Averaged weights.
    ema: EmaConfig = field(default_factory=EmaConfig)
    # Device, precision and parallelism.
    engine: EngineConfig = field(default_factory=EngineConfig)
    # Saving.
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    # Held-out losses.
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    # Safety limits.
    guards: GuardConfig = field(default_factory=GuardConfig)
    # "image" trains everything but the temporal modules; "temporal" trains those alone.
    stage: Literal["image", "temporal"] = "image"
    # Weights the run starts from: a bundle, a Stable Diffusion 1.x folder or UNet file, the folder
    # of the official files, or an AnimateDiff motion module. Parts it lacks start fresh; empty
    # starts from scratch.
    init_from: str | None = None
    # Bundle weights to start from.
    init_weights: Literal["ema", "raw"] = "ema"
    # Decides every random number of the run.
    seed: int = 0
    # Length of the run.
    samples: int = 1_000_000
    # Samples per optimiser step over all workers. Fixed: more workers mean less accumulation.
    global_batch: int = 32
    # Most samples per forward pass on one worker.
    micro_batch: int = 4
    # Steps between lines of the log.
    log_every: int = 10

    def __post_init__(self) -> None:
        """Refuse combinations that cannot run."""
        require_at_least("", self, samples=1, global_batch=1, micro_batch=1, log_every=1, seed=0)
        pairs = self.data.pairs
        alone = self.micro_batch * pairs.frames == 1 and self.engine.batch_norm != "frozen"
        if self.network.motion.standardise and alone and self.stage != "temporal":
            raise UserError(
                "network.motion.standardise has one frame in a pass to take statistics of",
                "set micro_batch or data.pairs.frames to 2 or more",
            )
        if self.loss.identity > 0 and self.stage == "image":
            if pairs.frames < 2:
                raise UserError(
                    "loss.identity compares the frames of a sample, and data.pairs.frames is 1",
                    "set data.pairs.frames=2, or loss.identity=0",
                )
            if not self.network.motion.standardise:
                raise UserError(
                    "loss.identity would shrink a motion latent that is not standardised",
                    "set network.motion.standardise=true, or loss.identity=0",
                )
        if self.uses_face_readout and pairs.frames < 2:
            raise UserError(
                "loss.face_change compares the frames of a sample, and data.pairs.frames is 1",
                "set data.pairs.frames=2, or loss.face_change=0",
            )
        if self.stage == "temporal":
            if pairs.layout != "window" or pairs.frames < 2:
                raise UserError(
                    f"the temporal stage reads {pairs.frames} {pairs.layout} frames",
                    "set data.pairs.layout=window and data.pairs.frames=16",
                )
            if not self.network.unet.temporal:
                raise UserError(
                    "the temporal stage has no temporal modules", "set network.unet.temporal=true"
                )
            if pairs.frames > self.network.unet.max_frames:
                raise UserError(
                    f"data.pairs.frames is {pairs.frames}, over network.unet.max_frames",
                    f"use {self.network.unet.max_frames} frames or fewer",
                )

    @property
    def uses_gan_head(self) -> bool:
        """Whether the run trains the GAN head and its discriminator."""
        return self.stage == "image" and self.loss.gan > 0

    @property
    def uses_face_readout(self) -> bool:
        """Whether the run has the motion latent read for how the face changes."""
        return self.stage == "image" and self.loss.face_change > 0


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
