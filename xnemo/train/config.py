"""Everything that decides a training run."""

from dataclasses import dataclass, field
from typing import Any, Literal

from preprocessing.errors import UserError
from xnemo.data.config import AugmentConfig, DataConfig
from xnemo.diffusion.schedule import DiffusionConfig
from xnemo.model.config import NetworkConfig
from xnemo.model.perceptual import PerceptualConfig


def _require(section: str, config: Any, **least: float) -> None:
    """Refuse a field below its least value, by name."""
    for name, bound in least.items():
        value = getattr(config, name)
        if value is not None and not value >= bound:
            raise UserError(f"{section}{name} is {value}", f"set it to {bound} or more")


@dataclass(frozen=True)
class ConditionConfig:
    """What training hides from the denoiser now and then."""

    # Share of samples whose reference, image token and motion are nulled together, for guidance.
    # Not published; the rate of its relatives.
    dropout: float = 0.1
    # Share of reference tokens removed at random in every layer (reference feature masking).
    reference_masking: float = 0.3

    def __post_init__(self) -> None:
        """Refuse shares outside [0, 1)."""
        for name in ("dropout", "reference_masking"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(
                    f"condition.{name} is {getattr(self, name)}", "set it to at least 0, below 1"
                )


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses.

    Their sum is diffusion + gan * (l1 + perceptual + feature_matching + adversarial) + identity
    + face_change.
    The weights inside the bracket are not published; they are those of the motion encoder's
    ancestors.
    """

    # Weight of the whole GAN head against the diffusion loss. Not published; chosen so that both
    # heads pull at the motion latent with gradients of comparable size.
    gan: float = 0.3
    # Absolute difference of pixels.
    l1: float = 1.0
    # Difference of VGG features, see `perceptual`. 0 switches it off.
    perceptual: float = 10.0
    # Difference of the critic's own features.
    feature_matching: float = 10.0
    # Hinge loss against the critic.
    adversarial: float = 1.0
    # Gradient penalty of the critic at real pictures, by finite difference. 0 switches it off:
    # spectral normalisation already bounds the critic.
    r1: float = 0.0
    # What the face-motion vector says alike of all frames of a sample: mostly who it is. Not part
    # of the published method, which leaves it to augmentation and to the narrow latent; with a
    # handful of people, and minutes, those do not suffice. Small weights take the person out and
    # leave the motion; with large ones the frames' vectors differ by nothing that anybody can read.
    identity: float = 0.0
    # How far a linear reader is from telling, by how the face-motion vector changes between the
    # frames of a sample, how the face does: its five landmarks, and the lightness of its parts
    # (`describe_face`). Not part of the published method, whose encoder begins with the weights of
    # a landmark network; from fresh weights, and with a handful of people, heads and encoder else
    # agree on a code for each person, which strangers do not have.
    face_change: float = 0.0

    def __post_init__(self) -> None:
        """Refuse negative weights."""
        _require("loss.", self, gan=0, l1=0, perceptual=0, feature_matching=0, adversarial=0)
        _require("loss.", self, r1=0, identity=0, face_change=0)


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW for both engines and the course of its learning rate, counted in samples."""

    # "adamw": torch's own. "fused": torch's fused kernels. "8bit": bitsandbytes, where installed.
    kind: Literal["adamw", "fused", "8bit"] = "adamw"
    # Learning rate of denoiser and reference network.
    lr: float = 1e-5
    # Learning rate of what brings motion in, encoder and motion modules, as a multiple of lr.
    motion_lr_scale: float = 1.0
    # The same for the encoder alone; empty takes motion_lr_scale.
    encoder_lr_scale: float | None = None
    # Learning rate of the GAN head. Its kernels are kept at unit deviation (StyleGAN2's equalised
    # rate, which is 2e-3 there), so that a step counts for less than elsewhere.
    gan_lr: float = 1e-3
    # Learning rate of the critic.
    critic_lr: float = 2e-4
    # Decay of the first and second moments, network engine.
    betas: tuple[float, float] = (0.9, 0.999)
    # The same for GAN head and critic: adversarial training wants little momentum.
    gan_betas: tuple[float, float] = (0.5, 0.99)
    # Added to the root of the second moment.
    eps: float = 1e-8
    # Decoupled weight decay of matrices and kernels; norms and biases have none.
    weight_decay: float = 1e-2
    # Gradients of an engine are scaled down to this global norm.
    clip: float = 1.0
    # Samples over which the learning rate rises from zero.
    warmup_samples: int = 0
    # Course after the warm-up.
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    # Share of the learning rate left at the end of "cosine" and "linear".
    final_share: float = 0.0

    def __post_init__(self) -> None:
        """Refuse rates that cannot train."""
        _require("optimizer.", self, lr=0, gan_lr=0, critic_lr=0, weight_decay=0, warmup_samples=0)
        _require("optimizer.", self, motion_lr_scale=0, encoder_lr_scale=0)
        if self.clip <= 0:
            raise UserError(f"optimizer.clip is {self.clip}", "set it above 0; 1e9 clips nothing")
        if self.eps <= 0:
            raise UserError(f"optimizer.eps is {self.eps}", "set it above 0, as 1e-8")
        for name in ("betas", "gan_betas"):
            if not all(0 <= beta < 1 for beta in getattr(self, name)):
                raise UserError(
                    f"optimizer.{name} is {getattr(self, name)}", "set both to at least 0, below 1"
                )
        if not 0 <= self.final_share <= 1:
            raise UserError(
                f"optimizer.final_share is {self.final_share}", "set it between 0 and 1"
            )


@dataclass(frozen=True)
class EmaConfig:
    """Running average of the weights, power profile of Karras et al. 2024 (EDM2), section 3."""

    # Whether to keep one; the bundle then holds both.
    enabled: bool = True
    # Width of the averaging window relative to the samples seen so far.
    relative_width: float = 0.1

    def __post_init__(self) -> None:
        """Refuse widths for which no power exists."""
        if not 0 < self.relative_width < 0.28:
            raise UserError(
                f"ema.relative_width is {self.relative_width}", "set it above 0 and below 0.28"
            )


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
    # Compile the denoiser and the reference network block by block.
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
        _require("checkpoint.", self, every_samples=1, keep_last=1)


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
        _require("validation.", self, every_samples=0, samples=1)


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
        _require(
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
        _require("", self, samples=1, global_batch=1, micro_batch=1, log_every=1, seed=0)
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
        """Whether the run trains the GAN head and its critic."""
        return self.stage == "image" and self.loss.gan > 0

    @property
    def uses_face_readout(self) -> bool:
        """Whether the run has the motion latent read for how the face changes."""
        return self.stage == "image" and self.loss.face_change > 0
