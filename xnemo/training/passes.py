"""Forward and backward pass of the generator and of the discriminator over one micro-batch."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

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
from xnemo.training.config import LossConfig
from xnemo.training.engines.engine import Engine
from xnemo.training.motion_losses import motion_loss
from xnemo.training.step_inputs import MotionInputs, StepInputs

# Step of the finite difference in the discriminator's gradient penalty.
_R1_SIGMA = 0.01


@dataclass(frozen=True)
class GeneratorResult:
    """Losses of a generator pass, and the generated images for the discriminator."""

    losses: dict[str, Tensor]
    # (N, 3, G, G), detached; None without a GAN head.
    images: Tensor | None


def generator_pass(
    network: Engine,
    discriminator: Engine | None,
    inputs: StepInputs,
    schedule: NoiseSchedule,
    config: LossConfig,
    *,
    perceptual: PerceptualLoss | None = None,
    weight: float = 1.0,
) -> GeneratorResult:
    """Run the networks forward and backward once; gradients accumulate in the engine.

    The discriminator runs with its parameters frozen: gradient passes through it to the images.
    ZeRO requires that, because its hooks would otherwise reduce the discriminator's gradients
    during the network's backward pass.

    Args:
        network: engine of the `JointNetwork`.
        discriminator: engine of the discriminator, if any.
        inputs: one micro-batch.
        schedule: noise schedule of the diffusion loss.
        config: weights of the losses.
        perceptual: the perceptual loss, if it has a weight.
        weight: factor on the gradient.
    """
    prediction, images, motion_BFK, motion_target_BFK = network(inputs)
    losses = {
        "diffusion": diffusion_loss(
            schedule, prediction, inputs.z_BCFhw, inputs.noise_BCFhw, inputs.timesteps_B
        ).mean()
    }
    total = losses["diffusion"]
    if motion_BFK is not None:
        losses["motion"] = motion_loss(motion_BFK, motion_target_BFK, inputs.present_B)
        total = total + config.motion * losses["motion"]
    if images is None or discriminator is None or inputs.head_target_NCHW is None:
        network.backward(total * weight)
        return GeneratorResult(_detached(losses, total), None)

    images = images.float()
    with discriminator.frozen() as discriminate:
        head = _head_losses(images, inputs.head_target_NCHW, discriminate, config, perceptual)
        for name, value in head.items():
            total = total + config.gan * getattr(config, name) * value
        losses |= {f"head_{name}": value for name, value in head.items()}
        network.backward(total * weight)
    return GeneratorResult(_detached(losses, total), images.detach())


def motion_pass(
    network: Engine, inputs: MotionInputs, config: LossConfig, *, weight: float = 1.0
) -> dict[str, Tensor]:
    """Run the motion encoder and its readout forward and backward once, and return the losses."""
    output = network(inputs)
    losses = {"motion": motion_loss(output.motion, output.motion_target)}
    total = config.motion * losses["motion"]
    network.backward(total * weight)
    return _detached(losses, total)


def discriminator_pass(
    discriminator: Engine,
    images_NCHW: Tensor,
    inputs: StepInputs,
    config: LossConfig,
    *,
    weight: float = 1.0,
) -> dict[str, Tensor]:
    """Run the discriminator forward and backward once on targets and detached generated images.

    All images form one batch, because an engine requires one forward pass per backward pass.
    """
    assert inputs.head_target_NCHW is not None
    real, count = inputs.head_target_NCHW, len(images_NCHW)
    images = [real, images_NCHW.detach()]
    if config.r1 > 0:
        noise = torch.randn_like(real)
        images.append(real + _R1_SIGMA * noise)
    outputs = discriminator(torch.cat(images))
    real_logits, fake_logits = _slice(outputs, 0, count), _slice(outputs, count, 2 * count)
    losses = {"discriminator": hinge_discriminator(real_logits, fake_logits)}
    total = losses["discriminator"]
    if config.r1 > 0:
        noisy_logits = _slice(outputs, 2 * count, 3 * count)
        pair = [
            DiscriminatorOutput(torch.cat([clean.logits, noisy.logits]), [])
            for clean, noisy in zip(real_logits, noisy_logits, strict=True)
        ]
        losses["discriminator_r1"] = r1_penalty_by_difference(
            lambda _: pair, real, noise, _R1_SIGMA
        )
        total = total + config.r1 * losses["discriminator_r1"]
    discriminator.backward(total * weight)
    return {name: value.detach() for name, value in losses.items()}


@torch.no_grad()
def count_flops(
    joint: nn.Module, discriminator: nn.Module | None, inputs: StepInputs | MotionInputs
) -> float:
    """Return the floating-point operations of one training step per sample.

    The forward pass is counted as executed; a backward pass costs twice its forward. The
    discriminator costs 4 forward passes in the generator's pass (forward on real and generated
    images, backward through the generated ones) and 6 in its own.
    """
    modes = [(m, m.training) for m in (joint, discriminator) if m is not None]
    for module, _ in modes:
        module.eval()
    with FlopCounterMode(display=False) as counter:
        joint(inputs)
    total = 3.0 * counter.get_total_flops()
    head_target = getattr(inputs, "head_target_NCHW", None)
    if discriminator is not None and head_target is not None:
        with FlopCounterMode(display=False) as counter:
            discriminator(head_target)
        total += 10.0 * counter.get_total_flops()
    for module, training in modes:
        module.train(training)
    return float(total / len(inputs))


def _head_losses(
    images: Tensor,
    target: Tensor,
    discriminate: Callable[[Tensor], list[DiscriminatorOutput]],
    config: LossConfig,
    perceptual: PerceptualLoss | None,
) -> dict[str, Tensor]:
    """Return the GAN head's losses by the name of their weight."""
    losses = {"l1": F.l1_loss(images, target)}
    if config.perceptual > 0 and perceptual is not None:
        losses["perceptual"] = perceptual(images, target)
    if config.adversarial > 0 or config.feature_matching > 0:
        fake_logits = discriminate(images)
        losses["adversarial"] = hinge_generator(fake_logits)
        if config.feature_matching > 0:
            with torch.no_grad():
                real_logits = discriminate(target)
            losses["feature_matching"] = feature_matching(real_logits, fake_logits)
    return losses


def _detached(losses: dict[str, Tensor], total: Tensor) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in {"loss": total, **losses}.items()}


def _slice(outputs: list[DiscriminatorOutput], start: int, end: int) -> list[DiscriminatorOutput]:
    """Return the outputs for images [start, end) of a batch."""
    return [
        DiscriminatorOutput(o.logits[start:end], [f[start:end] for f in o.features])
        for o in outputs
    ]
