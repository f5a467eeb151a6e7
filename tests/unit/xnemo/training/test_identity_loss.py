"""Identity loss: its value, gradient and settings."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from preprocessing.errors import UserError
from xnemo.training.config import ConditionConfig
from xnemo.training.engines.world import World
from xnemo.training.motion_losses import identity_loss
from xnemo.training.passes import generator_pass
from xnemo.training.setup import build_train_state
from xnemo.training.state import TrainState
from xnemo.training.step_inputs import prepare_inputs

ALONE = World(0, 1, torch.device("cpu"))


def latents(of_person: float, frames: int = 4) -> torch.Tensor:
    """Standardised latents (4096, F, 3) of which a share of the variance is the person's."""
    generator = torch.Generator().manual_seed(0)
    person = torch.randn(4096, 1, 3, generator=generator)
    motion = torch.randn(4096, frames, 3, generator=generator)
    return of_person**0.5 * person + (1 - of_person) ** 0.5 * motion


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_loss_is_the_shared_fraction_of_variance(share: float) -> None:
    z = latents(share)
    expected = share + (1 - share) / z.shape[1]
    assert float(identity_loss(z, torch.ones(len(z)))) == pytest.approx(expected, rel=0.03)


def test_samples_without_a_condition_count_zero() -> None:
    z, present = torch.ones(4, 2, 3), torch.tensor([True, False, True, False])
    assert float(identity_loss(z, present)) == 0.5
    parts = [identity_loss(z[i : i + 2], present[i : i + 2]) for i in (0, 2)]
    assert float(sum(parts) / 2) == 0.5


@pytest.fixture
def state(faces: Path, nano: Callable[..., Any]) -> TrainState:
    config = nano(
        data__pairs__frames=2, network__motion__standardise=True, network__motion__dropout=0.0
    )
    return build_train_state(config, [str(faces)], ALONE, None)


def test_gradient_reaches_the_encoder_and_lowers_the_loss(state: TrainState) -> None:
    batch = state.reader.read_batch([0, 1, 2, 3]).to("cpu")
    inputs = prepare_inputs(batch, state.frozen, ConditionConfig(dropout=0.0), seed=0)
    config = replace(state.config.loss, identity=1.0, gan=0.0)
    encoder = state.network.module.motion_encoder

    def leak(scale: float) -> float:
        state.network.module.zero_grad()
        result = generator_pass(
            state.network,
            state.discriminator,
            inputs,
            state.frozen.schedule,
            config,
            weight=scale,
        )
        return float(result.losses["identity"])

    before = leak(0.0)
    for _ in range(30):
        leak(1.0)
        with torch.no_grad():
            for parameter in encoder.parameters():
                if parameter.grad is not None:
                    parameter -= 0.02 * parameter.grad / (parameter.grad.norm() + 1e-8)
    assert leak(0.0) < 0.8 * before


def test_unsuitable_settings_are_refused(nano: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="frames is 1"):
        nano(loss__identity=0.1, network__motion__standardise=True, data__pairs__frames=1)
    with pytest.raises(UserError, match="shrink"):
        nano(loss__identity=0.1, data__pairs__frames=2, network__motion__standardise=False)
