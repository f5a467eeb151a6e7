"""Face change loss: what counts, where its gradient goes, and its settings."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from preprocessing.errors import UserError
from xnemo.data.face_description import FACE_NUMBERS
from xnemo.model.motion.face_readout import FaceReadout
from xnemo.model.networks import build_networks
from xnemo.training.checkpoint.bundle import load_bundle, load_weights, read_weights
from xnemo.training.config import ConditionConfig
from xnemo.training.engines.world import World
from xnemo.training.loop import run_training
from xnemo.training.motion_losses import face_change_loss
from xnemo.training.passes import generator_pass
from xnemo.training.setup import build_train_state
from xnemo.training.state import TrainState
from xnemo.training.step_inputs import prepare_inputs

ALONE = World(0, 1, torch.device("cpu"))


def test_only_changes_between_frames_count() -> None:
    readout = FaceReadout(3, 5)
    face, described = torch.randn(2, 4, 3), torch.randn(2, 4, 5)
    person, portrait = torch.randn(2, 1, 3), torch.randn(2, 1, 5)
    torch.testing.assert_close(readout(face + person), readout(face))
    present = torch.ones(2, dtype=torch.bool)
    torch.testing.assert_close(
        face_change_loss(readout(face), described + portrait, present),
        face_change_loss(readout(face), described, present),
    )


def test_the_loss_is_zero_for_a_correct_readout() -> None:
    face = torch.randn(2, 4, 3)
    told = FaceReadout(3, 5)(face)
    error = face_change_loss(told, told + 7, torch.ones(2, dtype=torch.bool))
    assert float(error.detach()) < 1e-12


def test_samples_without_description_or_condition_count_zero() -> None:
    told, described = torch.zeros(4, 2, 5), torch.randn(4, 2, 5)
    described[1, 0, 3] = float("nan")
    told.requires_grad_()
    present = torch.tensor([True, True, False, True])
    error = face_change_loss(told, described, present)
    error.backward()
    change = described - described.mean(1, keepdim=True)
    expected = (change[0].square().mean() + change[3].square().mean()) / 4
    torch.testing.assert_close(error.detach(), expected)
    assert torch.isfinite(told.grad).all()
    assert float(told.grad[1:3].abs().max()) == 0


@pytest.fixture
def state(faces: Path, nano: Callable[..., Any]) -> TrainState:
    config = nano(
        data__pairs__frames=2, network__motion__standardise=True, network__motion__dropout=0.0,
        loss__face_change=1.0,
    )  # fmt: skip
    return build_train_state(config, [str(faces)], ALONE, None)


def test_gradient_reaches_only_encoder_and_readout(state: TrainState) -> None:
    batch = state.reader.read_batch([0, 1, 2, 3]).to("cpu")
    assert batch.face_BFK is not None
    assert batch.face_BFK.shape == (4, 2, FACE_NUMBERS)
    inputs = prepare_inputs(batch, state.frozen, ConditionConfig(dropout=0.0), seed=0)
    module = state.network.module

    def error(weight: float) -> float:
        module.zero_grad()
        config = replace(state.config.loss, face_change=weight, gan=0.0)
        made = generator_pass(
            state.network, state.discriminator, inputs, state.frozen.schedule, config
        )
        return float(made.losses["face_change"])

    error(0.0)
    assert module.face_readout.linear.weight.grad is None or not bool(
        module.face_readout.linear.weight.grad.any()
    )
    without = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    before = error(1.0)
    changed = {
        name.split(".")[0]
        for name, p in module.named_parameters()
        if p.grad is not None and not torch.equal(p.grad, without.get(name, torch.zeros_like(p)))
    }
    assert changed == {"motion_encoder", "face_readout"}
    for _ in range(30):
        error(1.0)
        with torch.no_grad():
            for name, p in module.named_parameters():
                if p.grad is not None and name.split(".")[0] in changed:
                    p -= 0.05 * p.grad / (p.grad.norm() + 1e-8)
    assert error(1.0) < 0.9 * before


def test_faces_are_not_described_without_the_loss(faces: Path, nano: Callable[..., Any]) -> None:
    state = build_train_state(nano(data__pairs__frames=2), [str(faces)], ALONE, None)
    assert state.reader.read_batch([0, 1]).face_BFK is None
    assert state.network.module.face_readout is None


def test_mirrored_samples_are_described_mirrored(state: TrainState) -> None:
    reader = state.reader
    plain = reader.read(0).face_FK
    reader.augment = replace(reader.augment, mirror=1.0)
    mirrored = reader.read(0).face_FK
    assert plain is not None
    assert mirrored is not None
    # Left and right change places: of the landmarks, x relative to the middle changes its sign.
    swap = [1, 0, 2, 4, 3]
    points = plain[:, :10].reshape(-1, 5, 2)
    across = mirrored[:, :10].reshape(-1, 5, 2)[:, swap]
    np.testing.assert_allclose(across[..., 1], points[..., 1], atol=1e-3)
    total = across[..., 0] + points[..., 0]
    np.testing.assert_allclose(total, np.broadcast_to(total[:1, :1], total.shape), atol=1e-2)


def test_a_bundle_holds_the_readout_and_may_lack_it(
    faces: Path, nano: Callable[..., Any], tmp_path: Path, short_run: Path
) -> None:
    config = nano(data__pairs__frames=2, loss__face_change=1.0, samples=8)
    metrics = run_training(config, str(faces), tmp_path / "run")
    assert metrics["face_change"] > 0
    bundle = load_bundle(tmp_path / "run" / "bundle", "raw")
    assert bundle.networks.face_readout is not None
    fresh = build_networks(config.network, config.seed)
    assert fresh.face_readout is not None
    kept, begun = (n.face_readout.linear.weight for n in (bundle.networks, fresh))  # type: ignore[union-attr]
    assert not torch.equal(kept, begun)

    tensors = {
        name: tensor
        for name, tensor in read_weights(tmp_path / "run" / "bundle", "raw").items()
        if not name.startswith("face_readout.")
    }
    assert load_weights(fresh, tensors, tmp_path) == ["face_readout"]


def test_one_frame_per_sample_is_refused(nano: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="frames is 1"):
        nano(loss__face_change=0.1, data__pairs__frames=1)
