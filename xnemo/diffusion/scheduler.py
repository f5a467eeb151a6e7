"""The diffusers scheduler that takes one denoising step."""

import json
from pathlib import Path
from typing import Any, Literal

import diffusers
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from preprocessing.errors import UserError
from xnemo.diffusion.schedule import DiffusionConfig

Scheduler = Literal["ddim", "dpm", "unipc"]
Spacing = Literal["auto", "leading", "trailing", "linspace"]
SCHEDULERS = ("ddim", "dpm", "unipc")
SPACINGS = ("auto", "leading", "trailing", "linspace")
# Where a saved pipeline keeps its scheduler.
SCHEDULER_FOLDER = "scheduler"


def make_scheduler(
    diffusion: DiffusionConfig, scheduler: Scheduler = "ddim", spacing: Spacing = "auto"
) -> Any:
    """Build a scheduler on the forward process a network was trained with.

    Args:
        diffusion: The forward process.
        scheduler: "ddim" (the release), "dpm" (DPM-Solver++ of second order) or "unipc"; the latter
            two need about half as many steps.
        spacing: Which timesteps are visited. The release uses "leading", which never visits the
            noisiest ones; a zero terminal signal needs "trailing", which starts there. "auto"
            takes whichever of the two suits.

    Raises:
        UserError: For an unknown name, or a spacing that skips the step without signal.
    """
    if scheduler not in SCHEDULERS:
        raise UserError(f"scheduler = {scheduler!r} is unknown", f"use one of {SCHEDULERS}")
    if spacing not in SPACINGS:
        raise UserError(f"spacing = {spacing!r} is unknown", f"use one of {SPACINGS}")
    if spacing == "auto":
        spacing = "trailing" if diffusion.zero_terminal_snr else "leading"
    if diffusion.zero_terminal_snr and spacing != "trailing":
        raise UserError(
            f"spacing = {spacing!r} never visits the last timestep, from which a network with "
            "diffusion.zero_terminal_snr learnt to start",
            "set spacing to trailing",
        )
    arguments = diffusion.scheduler_arguments() | {
        "timestep_spacing": spacing,
        "steps_offset": 1,
    }
    if scheduler == "ddim":
        return DDIMScheduler(**arguments, clip_sample=False, set_alpha_to_one=True)
    if scheduler == "dpm":
        return DPMSolverMultistepScheduler(**arguments, algorithm_type="dpmsolver++")
    return UniPCMultistepScheduler(**arguments)


def read_scheduler(folder: Path) -> Any:
    """Load whatever scheduler class a folder's config names.

    Raises:
        UserError: There is no such config, or it is damaged.
    """
    try:
        name = json.loads((folder / "scheduler_config.json").read_text())["_class_name"]
        scheduler = getattr(diffusers, name)
        if not issubclass(scheduler, SchedulerMixin):
            raise ValueError(f"{name} is no scheduler")
        return scheduler.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder} holds no scheduler_config.json that diffusers {diffusers.__version__} reads",
            "save the pipeline again",
        ) from error
