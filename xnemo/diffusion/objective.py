"""The denoising loss, one number per sample."""

from torch import Tensor

from xnemo.diffusion.schedule import NoiseSchedule


def diffusion_loss(
    schedule: NoiseSchedule,
    prediction: Tensor,
    z: Tensor,
    noise: Tensor,
    timesteps_B: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """Return the weighted mean squared error (B,) of a prediction, computed in fp32 per sample.

    Args:
        schedule: Forward process; gives the target and the loss weights.
        prediction: The network's output for `schedule.add_noise(z, noise, timesteps_B)`.
        z: Clean latents (B, ...).
        noise: The noise that was added.
        timesteps_B: Timestep of each sample.
        mask: Weights that broadcast to the latents, such as 0 on padded frames; makes the mean a
            weighted mean.
    """
    target = schedule.target(z, noise, timesteps_B)
    error = (prediction.float() - target.float()).square()
    if mask is None:
        error_B = error.flatten(1).mean(dim=1)
    else:
        weight = mask.to(error).expand_as(error)
        total_B = weight.flatten(1).sum(dim=1).clamp(min=1e-8)
        error_B = (error * weight).flatten(1).sum(dim=1) / total_B
    return error_B * schedule.loss_weights(timesteps_B).to(error_B.device)
