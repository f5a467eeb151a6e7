"""Sampling of clips of any length, in overlapping windows."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor

from preprocessing.errors import UserError
from xnemo.diffusion.guidance import Conditions, Denoiser, guided_prediction
from xnemo.diffusion.initial_latents import initial_latents
from xnemo.diffusion.schedule import DiffusionConfig
from xnemo.diffusion.scheduler import SCHEDULERS, SPACINGS, Scheduler

# Frames that the scheduler steps at once; bounds its temporary tensors.
SCHEDULER_BLOCK = 256

# (step, timestep, latents) to the latents to continue with, or None to keep them.
StepCallback = Callable[[int, int, Tensor], Tensor | None]


@dataclass(frozen=True)
class SamplerConfig:
    """How latents are sampled; the defaults are the release's."""

    # Scheduler; dpm and unipc need about half as many steps as ddim.
    scheduler: Literal["ddim", "dpm", "unipc"] = "ddim"
    # Denoising steps; empty uses the model's own number, 35 for the release.
    steps: int | None = None
    # Guidance scale; 1 turns guidance off and halves the work; empty uses the model's own, 2.5 for
    # the release.
    guidance: float | None = None
    # Timestep spacing; "auto" is leading as in the release, or trailing for a network trained with
    # zero terminal SNR.
    spacing: Literal["auto", "leading", "trailing", "linspace"] = "auto"
    # Frames denoised together; animation uses at most the network's max_frames.
    window: int = 24
    # Frames that neighbouring windows share; animation uses 0 without temporal modules.
    overlap: int = 4
    # Windows per pass of the network; more use a large GPU better, and more memory.
    windows_per_batch: int = 1
    # Start from the blurred reference under the first timestep's noise instead of pure noise.
    blurred_reference: bool = True

    def __post_init__(self) -> None:
        if self.scheduler not in SCHEDULERS:
            raise UserError(f"scheduler = {self.scheduler!r}", f"use one of {SCHEDULERS}")
        if self.spacing not in SPACINGS:
            raise UserError(f"spacing = {self.spacing!r}", f"use one of {SPACINGS}")
        if (self.steps is not None and self.steps < 1) or self.windows_per_batch < 1:
            raise UserError(
                f"steps = {self.steps}, windows_per_batch = {self.windows_per_batch}",
                "use 1 or more for both",
            )
        if not 0 <= self.overlap < self.window:
            raise UserError(
                f"overlap = {self.overlap} with window = {self.window}",
                "use an overlap from 0 to window - 1",
            )

    def for_model(self, diffusion: DiffusionConfig) -> Self:
        """Return these settings with the model's own numbers where they are empty."""
        return replace(
            self,
            steps=diffusion.sampling_steps if self.steps is None else self.steps,
            guidance=diffusion.sampling_guidance if self.guidance is None else self.guidance,
        )


def make_windows(frames: int, size: int = 24, overlap: int = 4, offset: int = 0) -> list[list[int]]:
    """Return the frame numbers of every window of one denoising step.

    Windows start every `size - overlap` frames, shifted by `offset`, and wrap around at the end, so
    that over many steps with random offsets no frame stays at a boundary. A clip that fits one
    window is one window, in order.

    Args:
        frames: Frames of the clip.
        size: Frames of a window.
        overlap: Frames that neighbouring windows share.
        offset: Shift of all windows in frames.

    Raises:
        ValueError: The windows cannot advance.
    """
    if frames < 1 or not 0 <= overlap < size:
        raise ValueError(f"no windows of {size} frames with overlap {overlap} over {frames} frames")
    if frames <= size:
        return [list(range(frames))]
    return [
        [(start + offset + i) % frames for i in range(size)]
        for start in range(0, frames, size - overlap)
    ]


def sample_latents(
    denoiser: Denoiser,
    z_reference_1Chw: Tensor,
    conditions: Conditions,
    scheduler: Scheduler,
    config: SamplerConfig,
    generator: torch.Generator,
    on_step: StepCallback | None = None,
) -> Tensor:
    """Denoise all frames of a clip and return their latents (1, C, F, h, w), fp32 on the CPU.

    At every step, windows shifted by a random offset cover the clip. Predictions are averaged where
    windows overlap, then the scheduler steps the whole clip. The clip stays in host memory and the
    scheduler steps there in blocks: two fp32 copies of the latents, and one more per step that a
    multistep scheduler remembers. The device holds the windows of one pass, so its memory use does
    not depend on the length of the clip.

    Args:
        denoiser: Predicts for (K, C, F, h, w) windows; see `guided_prediction`.
        z_reference_1Chw: Scaled latents of the reference crop; gives device and dtype.
        conditions: Motion, reference and image embedding of the clip.
        scheduler: A diffusers scheduler on the network's forward process; see `make_scheduler`.
        config: Steps, guidance and windows.
        generator: CPU generator of initial noise and window offsets; nothing else is random.
        on_step: Called after every step; replaces the latents by its result unless that is None.

    Raises:
        UserError: The scheduler is not on a variance-preserving process.
    """
    filled = config.for_model(DiffusionConfig())
    assert filled.steps is not None
    assert filled.guidance is not None
    scheduler.set_timesteps(filled.steps)
    if float(scheduler.init_noise_sigma) != 1:
        raise UserError(
            f"{type(scheduler).__name__} scales its latents with the noise",
            "use DDIMScheduler, DPMSolverMultistepScheduler or UniPCMultistepScheduler",
        )
    timesteps = [int(t) for t in scheduler.timesteps]
    z_1CFhw = initial_latents(
        z_reference_1Chw.detach().float().cpu(),
        conditions.frames,
        scheduler.alphas_cumprod[timesteps[0]],
        generator,
        config.blurred_reference,
    )
    # Multistep schedulers keep previous steps, so each block of frames has its own.
    schedulers = [copy.deepcopy(scheduler) for _ in range(0, conditions.frames, SCHEDULER_BLOCK)]
    for step, timestep in enumerate(timesteps):
        # Drawn also for a single window, so that a seed gives the same noise for every length.
        offset = int(torch.randint(config.window, (1,), generator=generator))
        windows = make_windows(conditions.frames, config.window, config.overlap, offset)
        prediction = _averaged_prediction(
            denoiser,
            z_1CFhw,
            timestep,
            windows,
            conditions,
            config,
            filled.guidance,
            z_reference_1Chw,
        )
        for block, own in enumerate(schedulers):
            part = slice(block * SCHEDULER_BLOCK, (block + 1) * SCHEDULER_BLOCK)
            moved = own.step(prediction[:, :, part], own.timesteps[step], z_1CFhw[:, :, part])
            z_1CFhw[:, :, part] = moved.prev_sample
        if on_step is not None:
            replaced = on_step(step, timestep, z_1CFhw)
            z_1CFhw = z_1CFhw if replaced is None else replaced
    return z_1CFhw


@torch.no_grad()
def _averaged_prediction(
    denoiser: Denoiser,
    z_1CFhw: Tensor,
    timestep: int,
    windows: list[list[int]],
    conditions: Conditions,
    config: SamplerConfig,
    guidance: float,
    like: Tensor,
) -> Tensor:
    """Return the mean prediction (1, C, F, h, w) over the windows that contain each frame."""
    total = torch.zeros_like(z_1CFhw)
    visits = torch.zeros(z_1CFhw.shape[2])
    for first in range(0, len(windows), config.windows_per_batch):
        group = windows[first : first + config.windows_per_batch]
        z_KCFhw = torch.cat([z_1CFhw[:, :, window] for window in group]).to(like)
        # Guidance is linear: guiding each window equals guiding the averages.
        prediction = guided_prediction(denoiser, z_KCFhw, timestep, conditions, group, guidance)
        for window, part in zip(group, prediction.float().cpu(), strict=True):
            total[0][:, window] += part
            visits[window] += 1
    return total.div_(visits[:, None, None])
