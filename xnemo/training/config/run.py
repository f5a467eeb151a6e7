"""Engine, checkpoints, validation and guards of a run."""

from dataclasses import dataclass
from typing import Literal

from preprocessing.errors import UserError, require_at_least


@dataclass(frozen=True)
class EngineConfig:
    """Device, precision and parallelism."""

    # "torch": PyTorch, with DistributedDataParallel for several workers. "deepspeed": ZeRO.
    kind: Literal["torch", "deepspeed"] = "torch"
    # What ZeRO shards: 1 optimiser state, 2 also gradients, 3 also parameters.
    zero_stage: Literal[1, 2, 3] = 2
    # "auto" uses a GPU if there is one.
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # "bf16" runs the networks under bfloat16 autocast; weights, gradients, norm statistics and
    # reductions stay in fp32. CPUs without bf16 instructions (AMX) are many times slower with it.
    precision: Literal["fp32", "bf16"] = "fp32"
    # Recompute activations in the backward pass: less memory, about a third more time.
    gradient_checkpointing: bool = False
    # Compile the denoiser and the reference network block by block. On a CPU torch requires a C++
    # compiler and an installation path without spaces.
    compile: bool = False
    # Statistics of the motion encoder's batch norms. "synced": over all workers' samples of a
    # forward pass, so results do not depend on the number of workers; costs two all-reduces per
    # layer and direction. "local": over each worker's own samples. "frozen": the running
    # statistics, with the encoder's dropout off. With gradient accumulation, "synced" and "local"
    # statistics cover one micro-batch, so results depend on its size.
    batch_norm: Literal["synced", "local", "frozen"] = "synced"
    # Peak rate in TFLOP/s that MFU is relative to; empty measures a matrix product at the start.
    peak_tflops: float | None = None

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.peak_tflops is not None and self.peak_tflops <= 0:
            raise UserError(
                f"engine.peak_tflops is {self.peak_tflops}", "set it above 0, or leave it empty"
            )


@dataclass(frozen=True)
class CheckpointConfig:
    """What is saved, and when."""

    # Samples between checkpoints.
    every_samples: int = 100_000
    # Number of newest checkpoints to keep.
    keep_last: int = 3
    # Also keep the checkpoint with the lowest validation loss.
    keep_best: bool = True
    # Also save each worker's shard of the engine state, which the same number of workers loads
    # faster than the bundle.
    engine_shards: bool = True
    # Folder or fsspec URL that checkpoints' bundles are uploaded to, under the run's name; empty
    # disables uploads. `xnemo train` on a machine without the run resumes from there.
    upload: str | None = None

    def __post_init__(self) -> None:
        """Check ranges."""
        require_at_least("checkpoint.", self, every_samples=1, keep_last=1)


@dataclass(frozen=True)
class ValidationConfig:
    """Losses on held-out clips with fixed noise."""

    # Samples between validations; 0 disables validation.
    every_samples: int = 0
    # Number of held-out samples, the same in each validation.
    samples: int = 64
    # Filter expression that selects the held-out rows of the index.
    filter: str = "split == 'val'"

    def __post_init__(self) -> None:
        """Check ranges."""
        require_at_least("validation.", self, every_samples=0, samples=1)


@dataclass(frozen=True)
class GuardConfig:
    """When to skip a step, to warn, and to stop."""

    # Consecutive skipped steps (non-finite loss or gradient) that stop the run.
    max_skipped_steps: int = 10
    # A loss above this multiple of the median of the last 100 steps is reported as a spike.
    spike_factor: float = 5.0
    # A standard deviation of the motion latent over the frames of a pass below this is reported as
    # latent collapse: the networks receive the same motion from every driving frame.
    min_latent_std: float = 1e-4
    # Standard deviation of the motion latent on held-out clips, relative to that in training, below
    # which a validation stops the run: batch statistics hide a dead encoder in training. 0 never
    # stops it.
    min_latent_ratio: float = 0.05
    # Seconds without progress after which the current stage and all threads' stacks are reported.
    stall_seconds: float = 600.0
    # Seconds without progress after which the process exits, so that a scheduler restarts it; 0
    # disables this.
    stall_exit_seconds: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges."""
        require_at_least(
            "guards.",
            self,
            max_skipped_steps=1,
            spike_factor=1,
            min_latent_std=0,
            min_latent_ratio=0,
            stall_exit_seconds=0,
        )
        if self.stall_seconds <= 0:
            raise UserError(f"guards.stall_seconds is {self.stall_seconds}", "set it above 0")
