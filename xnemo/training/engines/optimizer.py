"""AdamW with parameter groups, and the learning rate schedule."""

import math
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from preprocessing.errors import UserError
from xnemo.training.config.optimizer import OptimizerConfig

ParameterGroup = dict[str, Any]

#: Parameters of the motion encoder that the motion stage trains. The projection to the denoiser's
#: tokens behind them is as fresh as the denoiser when a run starts from a bundle of that stage.
ENCODER_TRUNK = "motion_encoder.model."


def network_groups(network: nn.Module, config: OptimizerConfig) -> list[ParameterGroup]:
    """Group the trained parameters of a `JointNetwork` by learning rate, decay and betas."""

    def settings(name: str) -> tuple[float, tuple[float, float]]:
        if name.startswith("gan_head."):
            return config.gan_lr, config.gan_betas
        if name.startswith(ENCODER_TRUNK) and config.encoder_lr_scale is not None:
            return config.lr * config.encoder_lr_scale, config.betas
        motion = name.startswith(("motion_encoder.", "motion_readout."))
        if motion or ".motion_modules." in name:
            return config.lr * config.motion_lr_scale, config.betas
        return config.lr, config.betas

    return _groups(network, config, settings)


def discriminator_groups(discriminator: nn.Module, config: OptimizerConfig) -> list[ParameterGroup]:
    """Group the discriminator's parameters by decay."""
    return _groups(discriminator, config, lambda name: (config.discriminator_lr, config.gan_betas))


def _groups(
    module: nn.Module,
    config: OptimizerConfig,
    settings: Callable[[str], tuple[float, tuple[float, float]]],
) -> list[ParameterGroup]:
    groups: dict[tuple[float, tuple[float, float], float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        lr, betas = settings(name)
        decay = config.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((lr, betas, decay), []).append(parameter)
    return [
        {"params": parameters, "lr": lr, "betas": betas, "weight_decay": decay}
        for (lr, betas, decay), parameters in groups.items()
    ]


def build_optimizer(groups: list[ParameterGroup], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return the optimiser over `groups`.

    Raises:
        UserError: `config.kind` is "8bit" and bitsandbytes is not installed.
    """
    require_optimizer(config)
    if config.kind == "8bit":
        from bitsandbytes.optim import AdamW8bit

        optimizer: torch.optim.Optimizer = AdamW8bit(groups, eps=config.eps)
        return optimizer
    return torch.optim.AdamW(groups, eps=config.eps, fused=True if config.kind == "fused" else None)


def require_optimizer(config: OptimizerConfig) -> None:
    """Raise a UserError if `config.kind` is "8bit" and bitsandbytes is not installed."""
    if config.kind == "8bit" and find_spec("bitsandbytes") is None:
        raise UserError(
            "optimizer.kind is 8bit and bitsandbytes is not installed",
            "pip install 'xnemo[eight-bit]', or set optimizer.kind=fused",
        )


def learning_rate_scale(config: OptimizerConfig, samples_seen: int, total: int) -> float:
    """Return the factor on the configured learning rates for the step after `samples_seen`.

    Args:
        config: warm-up and schedule.
        samples_seen: position in the run.
        total: length of the run in samples.
    """
    if samples_seen < config.warmup_samples:
        return (samples_seen + 1) / config.warmup_samples
    if config.schedule == "constant":
        return 1.0
    length = max(1, total - config.warmup_samples)
    progress = min(1.0, (samples_seen - config.warmup_samples) / length)
    left = 1 - progress if config.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return config.final_share + (1 - config.final_share) * left
