"""Construction and loading of diffusers schedulers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import diffusers
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from preprocessing.errors import UserError
from xnemo.diffusion.schedule import DiffusionConfig

SchedulerName = Literal["ddim", "dpm", "unipc"]
Spacing = Literal["auto", "leading", "trailing", "linspace"]
SCHEDULERS = ("ddim", "dpm", "unipc")
SPACINGS = ("auto", "leading", "trailing", "linspace")
# Subfolder of the scheduler in a saved pipeline.
SCHEDULER_FOLDER = "scheduler"


class Scheduler(Protocol):
    """A diffusers scheduler, as far as sampling uses it."""

    timesteps: Tensor
    alphas_cumprod: Tensor

    @property
    def config(self) -> Mapping[str, Any]:
        """Arguments of the constructor."""
        ...

    @property
    def init_noise_sigma(self) -> float | Tensor:
        """Standard deviation of the initial noise."""
        ...

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Choose the timesteps of a run."""
        ...

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor) -> Any:
        """Return an output whose `prev_sample` is the sample at the next timestep."""
        ...


def make_scheduler(
    diffusion: DiffusionConfig, scheduler: SchedulerName = "ddim", spacing: Spacing = "auto"
) -> Scheduler:
    """Build a scheduler for the forward process that a network was trained with.

    Args:
        diffusion: The forward process.
        scheduler: "ddim" (the release), "dpm" (second-order DPM-Solver++) or "unipc"; the latter
            two need about half as many steps.
        spacing: Timestep spacing. The release uses "leading", which skips the noisiest timesteps;
            zero terminal SNR requires "trailing", which starts with them. "auto" selects between
            the two.

    Raises:
        UserError: A name is unknown, or zero terminal SNR is combined with another spacing.
    """
    if scheduler not in SCHEDULERS:
        raise UserError(f"scheduler = {scheduler!r} is unknown", f"use one of {SCHEDULERS}")
    if spacing not in SPACINGS:
        raise UserError(f"spacing = {spacing!r} is unknown", f"use one of {SPACINGS}")
    if spacing == "auto":
        spacing = "trailing" if diffusion.zero_terminal_snr else "leading"
    if diffusion.zero_terminal_snr and spacing != "trailing":
        raise UserError(
            f"spacing = {spacing!r} skips the last timestep, which diffusion.zero_terminal_snr"
            " requires",
            "set spacing to trailing",
        )
    arguments = diffusion.scheduler_arguments() | {
        "timestep_spacing": spacing,
        "steps_offset": 1,
    }
    if scheduler == "ddim":
        ddim = DDIMScheduler(**arguments, clip_sample=False, set_alpha_to_one=True)
        return cast(Scheduler, ddim)
    if scheduler == "dpm":
        dpm = DPMSolverMultistepScheduler(**arguments, algorithm_type="dpmsolver++")
        return cast(Scheduler, dpm)
    return cast(Scheduler, UniPCMultistepScheduler(**arguments))


def read_scheduler(folder: Path) -> Scheduler:
    """Load the scheduler class that a folder's config names.

    Raises:
        UserError: The config is missing or damaged.
    """
    try:
        name = json.loads((folder / "scheduler_config.json").read_text())["_class_name"]
        scheduler = getattr(diffusers, name)
        if not issubclass(scheduler, SchedulerMixin):
            raise ValueError(f"{name} is not a scheduler")
        return cast(Scheduler, scheduler.from_pretrained(folder))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder} holds no scheduler_config.json that diffusers {diffusers.__version__} reads",
            "save the pipeline again",
        ) from error
