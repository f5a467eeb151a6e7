"""Generator and discriminator pass: gradients and dropped conditions."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from xnemo.training.config import ConditionConfig
from xnemo.training.engines.world import World
from xnemo.training.passes import discriminator_pass, generator_pass
from xnemo.training.setup import build_train_state
from xnemo.training.state import TrainState
from xnemo.training.step_inputs import StepInputs, prepare_inputs

ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture
def state(faces: Path, nano: Callable[..., Any]) -> TrainState:
    return build_train_state(nano(data__pairs__frames=2, loss__r1=1.0), [str(faces)], ALONE, None)


def inputs_of(state: TrainState, dropout: float = 0.0) -> StepInputs:
    batch = state.reader.read_batch([0, 1, 2, 3]).to("cpu")
    return prepare_inputs(batch, state.frozen, ConditionConfig(dropout=dropout), seed=0)


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor | None]:
    return {name: p.grad for name, p in module.named_parameters() if p.requires_grad}


def generate(state: TrainState, inputs: StepInputs, **loss: float):
    return generator_pass(
        state.network,
        state.discriminator,
        inputs,
        state.frozen.schedule,
        replace(state.config.loss, **loss),
    )


def test_the_generator_pass_reaches_every_part_and_not_the_discriminator(state: TrainState) -> None:
    assert state.discriminator is not None
    result = generate(state, inputs_of(state))
    found = gradients(state.network.module)
    assert [name for name, g in found.items() if g is None] == []
    assert all(p.requires_grad for p in state.discriminator.module.parameters())
    assert all(g is None for g in gradients(state.discriminator.module).values())
    assert result.images is not None
    assert not result.images.requires_grad
    assert {"loss", "diffusion", "head_l1", "head_adversarial", "head_feature_matching"} == set(
        result.losses
    )


def test_the_discriminator_pass_reaches_the_discriminator_alone(state: TrainState) -> None:
    assert state.discriminator is not None
    inputs = inputs_of(state)
    pictures = torch.randn_like(inputs.head_target_NCHW).requires_grad_()
    losses = discriminator_pass(state.discriminator, pictures, inputs, state.config.loss)
    assert pictures.grad is None
    assert all(g is not None for g in gradients(state.discriminator.module).values())
    assert all(g is None for g in gradients(state.network.module).values())
    assert {"discriminator", "discriminator_r1"} == set(losses)


def test_both_heads_give_the_motion_encoder_gradient(state: TrainState) -> None:
    pulls = []
    for loss in ({"gan": 0.0}, {"gan": 1.0}):
        torch.manual_seed(0)
        generate(state, inputs_of(state), **loss)
        weight = state.network.module.motion_encoder.model.fc.weight
        pulls.append(weight.grad.clone())
        state.network.module.zero_grad()
    # At the start the motion modules' zero output layers pass the diffusion loss nothing.
    assert float(pulls[0].abs().max()) == 0
    assert float(pulls[1].abs().max()) > 0


def test_a_dropped_condition_nulls_all_three_signals_and_keeps_every_gradient(
    state: TrainState,
) -> None:
    batch = state.reader.read_batch([0, 1, 2, 3]).to("cpu")
    dropped = prepare_inputs(batch, state.frozen, ConditionConfig(dropout=0.999), seed=0)
    assert not dropped.present_B.any()
    assert float(dropped.image_embeddings_BLD.abs().max()) == 0
    assert torch.equal(dropped.driving_BCFHW[:, :, 1], batch.reference_pose_BCHW)
    assert dropped.box_BF3[..., 2].eq(1).all()
    assert dropped.box_BF3[..., :2].eq(0).all()
    assert torch.equal(dropped.head_target_NCHW, dropped.head_reference_BCHW)
    kept = prepare_inputs(batch, state.frozen, ConditionConfig(dropout=0.0), seed=0)
    assert torch.equal(kept.noise_BCFhw, dropped.noise_BCFhw)
    assert torch.equal(kept.timesteps_B, dropped.timesteps_B)
    generate(state, dropped)
    assert [n for n, g in gradients(state.network.module).items() if g is None] == []


def test_noise_depends_on_the_sample_not_its_position(state: TrainState) -> None:
    def inputs(numbers: list[int]) -> StepInputs:
        batch = state.reader.read_batch(numbers).to("cpu")
        return prepare_inputs(batch, state.frozen, ConditionConfig(dropout=0.5), seed=0)

    together, alone = inputs([10, 11, 12]), inputs([12])
    for name in ("noise_BCFhw", "timesteps_B", "present_B", "driving_BCFHW"):
        assert torch.equal(getattr(together, name)[2:], getattr(alone, name)), name
    assert together.mask_seeds[2:] == alone.mask_seeds
    assert len(set(together.timesteps_B.tolist())) > 1


def test_weight_zero_leaves_no_gradient(state: TrainState) -> None:
    assert state.discriminator is not None
    inputs = inputs_of(state)
    made = generator_pass(
        state.network, state.discriminator, inputs, state.frozen.schedule,
        state.config.loss, weight=0.0,
    )  # fmt: skip
    discriminator_pass(state.discriminator, made.images, inputs, state.config.loss, weight=0.0)
    for engine in state.engines.values():
        found = gradients(engine.module).values()
        assert all(g is not None and float(g.abs().max()) == 0 for g in found)


def test_the_temporal_stage_trains_temporal_modules_alone(
    faces: Path, nano: Callable[..., Any]
) -> None:
    config = nano(
        network__unet__temporal=True, data__pairs__layout="window", data__pairs__frames=4,
        stage="temporal",
    )  # fmt: skip
    state = build_train_state(config, [str(faces)], ALONE, None)
    assert state.discriminator is None
    inputs = inputs_of(state)
    before = {n: b.clone() for n, b in state.network.module.named_buffers()}
    generate(state, inputs)
    module = state.network.module
    trained = {n for n, p in module.named_parameters() if p.grad is not None}
    assert trained
    assert all(".temporal_modules." in name for name in trained)
    assert trained == {n for n, _ in module.named_parameters() if ".temporal_modules." in n}
    assert all(torch.equal(b, before[n]) for n, b in module.named_buffers())


def test_the_linear_function_of_zero_3_is_undone(
    faces: Path, nano: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZeRO-3 leaves its own, which rounds otherwise, in the whole process."""
    own = torch.nn.functional.linear
    monkeypatch.setattr(torch.nn.functional, "linear", lambda x, weight, bias=None: own(x, weight))
    build_train_state(nano(), [str(faces)], ALONE, None)
    assert torch.nn.functional.linear is own
