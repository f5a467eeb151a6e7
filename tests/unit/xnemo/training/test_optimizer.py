"""Parameter groups and kinds of the optimiser."""

import sys
from dataclasses import replace

import pytest
import torch
from tiny_run import nano_config

from preprocessing.errors import UserError
from xnemo.model.networks import build_networks
from xnemo.training.config import OptimizerConfig
from xnemo.training.engines.optimizer import build_optimizer, discriminator_groups, network_groups
from xnemo.training.joint_network import JointNetwork


@pytest.mark.parametrize("encoder_scale", [None, 0.5])
def test_every_trained_parameter_is_in_one_group_at_the_rate_of_its_part(encoder_scale):
    config = nano_config()
    joint = JointNetwork(build_networks(config.network), config)
    rates_of = replace(
        config.optimizer,
        lr=1e-3,
        motion_lr_scale=3.0,
        encoder_lr_scale=encoder_scale,
        gan_lr=5e-4,
        discriminator_lr=7e-5,
    )
    groups = network_groups(joint, rates_of)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    trained = {name: p for name, p in joint.named_parameters() if p.requires_grad}
    assert sum(len(group["params"]) for group in groups) == len(trained) == len(rates)
    seen = set()
    for name, parameter in trained.items():
        if name.startswith("gan_head."):
            part, rate = "gan", 5e-4
        elif name.startswith("motion_encoder.model."):
            part, rate = "encoder", 3e-3 if encoder_scale is None else 5e-4
        elif name.startswith("motion_encoder."):
            part, rate = "projection to tokens", 3e-3
        elif ".motion_modules." in name:
            part, rate = "motion modules", 3e-3
        else:
            part, rate = "rest", 1e-3
        assert rates[id(parameter)] == rate, name
        seen.add(part)
    assert seen == {"gan", "encoder", "projection to tokens", "motion modules", "rest"}
    discriminator = build_networks(config.network).discriminator
    assert {group["lr"] for group in discriminator_groups(discriminator, rates_of)} == {7e-5}


def test_a_rate_of_zero_freezes_the_encoder_and_its_statistics_but_not_the_projection():
    config = nano_config(optimizer__encoder_lr_scale=0.0)
    joint = JointNetwork(build_networks(config.network), config).train()
    encoder = joint.motion_encoder
    assert not any(p.requires_grad for p in encoder.model.parameters())
    assert all(p.requires_grad for p in encoder.final_proj.parameters())
    before = {name: value.clone() for name, value in encoder.named_buffers()}
    assert any("running_mean" in name for name in before)
    images = torch.rand(4, 3, encoder.side, encoder.side) * 2 - 1
    encoder(images, torch.tensor([0.0, 0.0, 1.0]).expand(4, 3)).tokens.sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in encoder.named_buffers())
    assert encoder.final_proj.weight.grad is not None


def groups() -> list[dict]:
    return [{"params": [torch.nn.Parameter(torch.ones(2))], "lr": 0.1, "betas": (0.5, 0.9)}]


@pytest.mark.parametrize(("kind", "fused"), [("adamw", None), ("fused", True)])
def test_kinds_of_torch(kind, fused):
    optimizer = build_optimizer(groups(), OptimizerConfig(kind=kind, eps=1e-5))
    assert isinstance(optimizer, torch.optim.AdamW)
    (group,) = optimizer.param_groups
    assert (group["fused"], group["eps"], group["betas"]) == (fused, 1e-5, (0.5, 0.9))


def test_a_missing_8_bit_optimiser_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(UserError, match=r"pip install 'xnemo\[eight-bit\]'"):
        build_optimizer(groups(), OptimizerConfig(kind="8bit"))
