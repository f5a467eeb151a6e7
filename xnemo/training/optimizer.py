"""Build AdamW with the parameter groups of an engine."""

from collections.abc import Callable

import torch
from torch import nn

from preprocessing.errors import UserError
from xnemo.training.optimizer_config import OptimizerConfig


def network_groups(network: nn.Module, config: OptimizerConfig) -> list[dict]:
    """Return the trained parameters of a joint network in groups of equal rate, decay and betas."""

    def settings(name: str) -> tuple[float, tuple[float, float]]:
        if name.startswith("gan_head."):
            return config.gan_lr, config.gan_betas
        if name.startswith("motion_encoder.") and config.encoder_lr_scale is not None:
            return config.lr * config.encoder_lr_scale, config.betas
        motion = name.startswith(("motion_encoder.", "face_readout."))
        if motion or ".motion_modules." in name:
            return config.lr * config.motion_lr_scale, config.betas
        return config.lr, config.betas

    return _groups(network, config, settings)


def discriminator_groups(discriminator: nn.Module, config: OptimizerConfig) -> list[dict]:
    """Return the discriminator's parameters in groups."""
    return _groups(discriminator, config, lambda name: (config.discriminator_lr, config.gan_betas))


def _groups(
    module: nn.Module,
    config: OptimizerConfig,
    settings: Callable[[str], tuple[float, tuple[float, float]]],
) -> list[dict]:
    groups: dict[tuple, list[nn.Parameter]] = {}
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


def build_optimizer(groups: list[dict], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return the optimiser of a config over `groups`.

    Raises:
        UserError: an 8-bit optimiser is asked for without bitsandbytes.
    """
    if config.kind == "8bit":
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError:
            raise UserError(
                "optimizer.kind is 8bit and bitsandbytes is not installed",
                "pip install 'xnemo[eight-bit]', or set optimizer.kind=fused",
            ) from None
        return AdamW8bit(groups, eps=config.eps)
    return torch.optim.AdamW(groups, eps=config.eps, fused=True if config.kind == "fused" else None)
