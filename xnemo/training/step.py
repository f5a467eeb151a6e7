"""One pass of each engine: losses, and the one backward each engine is owed."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from xnemo.diffusion.objective import diffusion_loss
from xnemo.diffusion.schedule import NoiseSchedule
from xnemo.model.frozen.perceptual import PerceptualLoss
from xnemo.model.gan.adversarial_losses import (
    feature_matching,
    hinge_discriminator,
    hinge_generator,
    r1_penalty_by_difference,
)
from xnemo.model.gan.discriminator import DiscriminatorOutput
from xnemo.training.engines.engine import Engine
from xnemo.training.face_change import face_change_error
from xnemo.training.identity_leak import identity_leak
from xnemo.training.loss_config import LossConfig
from xnemo.training.step_inputs import StepInputs

# Step of the finite difference in the discriminator's gradient penalty.
_R1_SIGMA = 0.01


@dataclass(frozen=True)
class GeneratorResult:
    """Losses of a generator pass, and the pictures the discriminator will judge."""

    losses: dict[str, Tensor]
    # (N, 3, G, G), detached; None without a GAN head.
    pictures: Tensor | None


def generator_step(
    network: Engine,
    discriminator: Engine | None,
    inputs: StepInputs,
    schedule: NoiseSchedule,
    config: LossConfig,
    *,
    perceptual: PerceptualLoss | None = None,
    weight: float = 1.0,
) -> GeneratorResult:
    """Run the networks forwards and backwards once; gradients stay in the engine until its step.

    The discriminator runs with its parameters frozen: gradient passes through it to the images.
    ZeRO requires that, because its hooks would otherwise reduce the discriminator's gradients
    during the network's backward pass.
    """
    prediction, pictures, face_BFD, change_BFK = network(inputs)
    losses = {
        "diffusion": diffusion_loss(
            schedule, prediction, inputs.z_BCFhw, inputs.noise_BCFhw, inputs.timesteps_B
        ).mean()
    }
    total = losses["diffusion"]
    if config.identity > 0:
        losses["identity"] = identity_leak(face_BFD, inputs.present_B)
        total = total + config.identity * losses["identity"]
    if change_BFK is not None and inputs.face_BFK is not None:
        losses["face_change"] = face_change_error(change_BFK, inputs.face_BFK, inputs.present_B)
        total = total + config.face_change * losses["face_change"]
    if pictures is None or discriminator is None or inputs.head_target_NCHW is None:
        network.backward(total * weight)
        return GeneratorResult(_detached(losses, total), None)

    pictures = pictures.float()
    with discriminator.frozen() as judge:
        head = _head_losses(pictures, inputs.head_target_NCHW, judge, config, perceptual)
        for name, value in head.items():
            total = total + config.gan * getattr(config, name) * value
        losses |= {f"head_{name}": value for name, value in head.items()}
        network.backward(total * weight)
    return GeneratorResult(_detached(losses, total), pictures.detach())


def discriminator_step(
    discriminator: Engine,
    pictures_NCHW: Tensor,
    inputs: StepInputs,
    config: LossConfig,
    *,
    weight: float = 1.0,
) -> dict[str, Tensor]:
    """Teach the discriminator to tell targets from the generator's detached pictures, one backward.

    All pictures go through in one batch, because an engine is owed one forward per backward.
    """
    assert inputs.head_target_NCHW is not None
    real, count = inputs.head_target_NCHW, len(pictures_NCHW)
    pictures = [real, pictures_NCHW.detach()]
    if config.r1 > 0:
        noise = torch.randn_like(real)
        pictures.append(real + _R1_SIGMA * noise)
    judged = discriminator(torch.cat(pictures))
    real_logits, fake_logits = _part(judged, 0, count), _part(judged, count, 2 * count)
    losses = {"discriminator": hinge_discriminator(real_logits, fake_logits)}
    total = losses["discriminator"]
    if config.r1 > 0:
        pair = [
            DiscriminatorOutput(torch.cat([clean.logits, noisy.logits]), [])
            for clean, noisy in zip(real_logits, _part(judged, 2 * count, 3 * count), strict=True)
        ]
        losses["discriminator_r1"] = r1_penalty_by_difference(
            lambda _: pair, real, noise, _R1_SIGMA
        )
        total = total + config.r1 * losses["discriminator_r1"]
    discriminator.backward(total * weight)
    return {name: value.detach() for name, value in losses.items()}


def _head_losses(
    pictures: Tensor,
    target: Tensor,
    judge: Callable[[Tensor], list[DiscriminatorOutput]],
    config: LossConfig,
    perceptual: PerceptualLoss | None,
) -> dict[str, Tensor]:
    """Return the GAN head's loss terms that have a weight, by the weight's name."""
    losses = {"l1": F.l1_loss(pictures, target)}
    if config.perceptual > 0 and perceptual is not None:
        losses["perceptual"] = perceptual(pictures, target)
    if config.adversarial > 0 or config.feature_matching > 0:
        fake_logits = judge(pictures)
        losses["adversarial"] = hinge_generator(fake_logits)
        if config.feature_matching > 0:
            with torch.no_grad():
                real_logits = judge(target)
            losses["feature_matching"] = feature_matching(real_logits, fake_logits)
    return losses


def _detached(losses: dict[str, Tensor], total: Tensor) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in {"loss": total, **losses}.items()}


def _part(outputs: list[DiscriminatorOutput], start: int, end: int) -> list[DiscriminatorOutput]:
    """Return what the discriminator said of some of the pictures of its batch."""
    return [
        DiscriminatorOutput(o.logits[start:end], [f[start:end] for f in o.features])
        for o in outputs
    ]
