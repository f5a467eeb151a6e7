"""Which optimiser a setting names, and what is said where it cannot be had."""

import sys

import pytest
import torch

from preprocessing.errors import UserError
from xnemo.train.optimizer import build_optimizer
from xnemo.train.optimizer_config import OptimizerConfig


def groups() -> list[dict]:
    return [{"params": [torch.nn.Parameter(torch.ones(2))], "lr": 0.1, "betas": (0.5, 0.9)}]


@pytest.mark.parametrize(("kind", "fused"), [("adamw", None), ("fused", True)])
def test_kinds_of_torch(kind, fused):
    optimizer = build_optimizer(groups(), OptimizerConfig(kind=kind, eps=1e-5))
    assert isinstance(optimizer, torch.optim.AdamW)
    (group,) = optimizer.param_groups
    assert (group["fused"], group["eps"], group["betas"]) == (fused, 1e-5, (0.5, 0.9))


def test_an_8_bit_optimiser_that_is_not_installed_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(UserError, match=r"pip install 'xnemo\[eight-bit\]'"):
        build_optimizer(groups(), OptimizerConfig(kind="8bit"))
