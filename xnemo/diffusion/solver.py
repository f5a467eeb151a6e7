"""The diffusers scheduler that takes one denoising step."""

from typing import Any, Literal

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

from preprocessing.errors import UserError
from xnemo.diffusion.schedule import DiffusionConfig

Solver = Literal["ddim", "dpm", "unipc"]
Spacing = Literal["auto", "leading", "trailing", "linspace"]
SOLVERS = ("ddim", "dpm", "unipc")
SPACINGS = ("auto", "leading", "trailing", "linspace")


def make_solver(
    diffusion: DiffusionConfig, solver: Solver = "ddim", spacing: Spacing = "auto"
) -> Any:
    """Build a scheduler on the forward process a network was trained with.

    Args:
        diffusion: The forward process.
        solver: "ddim" (the release), "dpm" (DPM-Solver++ of second order) or "unipc"; the latter
            two need about half as many steps.
        spacing: Which timesteps are visited. The release uses "leading", which never visits the
            noisiest ones; a zero terminal signal needs "trailing", which starts there. "auto"
            takes whichever of the two suits.

    Raises:
        UserError: For an unknown name, or a spacing that skips the step without signal.
    """
    if solver not in SOLVERS:
        raise UserError(f"solver = {solver!r} is unknown", f"use one of {SOLVERS}")
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
    if solver == "ddim":
        return DDIMScheduler(**arguments, clip_sample=False, set_alpha_to_one=True)
    if solver == "dpm":
        return DPMSolverMultistepScheduler(**arguments, algorithm_type="dpmsolver++")
    return UniPCMultistepScheduler(**arguments)
