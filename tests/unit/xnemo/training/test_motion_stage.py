"""The motion stage: an encoder and a linear readout of known motion."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from preprocessing.errors import UserError
from xnemo.data.motion_numbers import READOUT_COLUMNS
from xnemo.model.motion.motion_readout import MotionReadout
from xnemo.training.loop import run_training
from xnemo.training.motion_losses import motion_loss, r_squared, readout_sums

Build = Callable[..., Any]
YAW, JAW = READOUT_COLUMNS.index("yaw"), READOUT_COLUMNS.index("jawOpen")


def motion_config(nano: Build, **changes: Any) -> Any:
    config = nano(**{"loss__motion": 1.0, "data__pairs__frames": 4, **changes})
    standard = replace(config.network.motion, standardise=True, dropout=0.0)
    return replace(config, stage="motion", network=replace(config.network, motion=standard))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "bundle" / "raw.safetensors")


def test_it_learns_a_motion_and_measures_it_on_held_out_clips(
    nano: Build, matched_faces: Path, tmp_path: Path
) -> None:
    config = motion_config(
        nano,
        samples=480,
        optimizer__lr=5e-3,
        checkpoint__every_samples=480,
        validation__every_samples=480,
        validation__samples=16,
    )
    last = run_training(config, str(matched_faces), tmp_path / "run")
    # Without a face in its crop an encoder cannot do better than the mean, which is 0.
    assert last["validation_r2_yaw"] > 0.1
    assert last["validation_r2"] <= 1
    assert "diffusion" not in last


def test_its_bundle_holds_the_encoder_alone_and_starts_an_image_stage(
    nano: Build, matched_faces: Path, tmp_path: Path
) -> None:
    config = motion_config(nano, samples=8)
    run_training(config, str(matched_faces), tmp_path / "motion")
    stored = weights(tmp_path / "motion")
    assert {name.split(".")[0] for name in stored} == {"motion_encoder", "motion_readout"}
    image = replace(
        config,
        stage="image",
        init_from=str(tmp_path / "motion" / "bundle"),
        init_weights="raw",
        # Learning rates of zero: what is written is what was loaded.
        optimizer=replace(config.optimizer, lr=0.0, gan_lr=0.0, discriminator_lr=0.0),
        samples=4,
    )
    run_training(image, str(matched_faces), tmp_path / "image")
    after = weights(tmp_path / "image")
    for name, value in stored.items():
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(value, after[name]), name
    assert any(name.startswith("denoiser.") for name in after)


def test_a_stopped_stage_resumes_to_the_same_weights(
    nano: Build, matched_faces: Path, tmp_path: Path
) -> None:
    config = motion_config(nano, samples=16, data__pairs__matched=0.5)
    run_training(config, str(matched_faces), tmp_path / "whole")
    steps = iter(range(100))
    run_training(config, str(matched_faces), tmp_path / "cut", should_stop=lambda: next(steps) == 1)
    run_training(config, str(matched_faces), tmp_path / "cut", resume="must")
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_statistics_are_those_of_the_data_and_travel_with_the_bundle(
    nano: Build, matched_faces: Path, tmp_path: Path
) -> None:
    run_training(motion_config(nano, samples=4), str(matched_faces), tmp_path / "run")
    stored = weights(tmp_path / "run")
    scale = stored["motion_readout.scale"]
    assert scale[YAW] == pytest.approx(30 / np.sqrt(2), rel=0.3)
    known = {READOUT_COLUMNS[int(i)] for i in torch.nonzero(scale)}
    assert known == {"yaw", "jawOpen"}


def test_real_clips_teach_the_head_pose(nano: Build, faces: Path, tmp_path: Path) -> None:
    run_training(motion_config(nano, samples=4), str(faces), tmp_path / "run")
    scale = weights(tmp_path / "run")["motion_readout.scale"]
    assert {READOUT_COLUMNS[int(i)] for i in torch.nonzero(scale)} == {"yaw", "pitch"}


def test_the_image_stage_keeps_the_readout_beside_its_losses(
    nano: Build, matched_faces: Path, tmp_path: Path
) -> None:
    config = replace(motion_config(nano, samples=8), stage="image")
    run_training(config, str(matched_faces), tmp_path / "run")
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    steps = [r for r in map(json.loads, lines) if "motion" in r]
    assert steps
    assert all({"diffusion", "head_l1", "motion"} <= r.keys() for r in steps)


def test_unknown_numbers_and_dropped_conditions_count_nothing() -> None:
    target = torch.tensor([[[1.0, torch.nan]], [[5.0, 5.0]]])
    predicted = torch.tensor([[[3.0, 9.0]], [[0.0, 0.0]]], requires_grad=True)
    loss = motion_loss(predicted, target, torch.tensor([True, False]))
    # Smooth L1 of 2 is 1.5, over four numbers.
    assert loss.item() == pytest.approx(1.5 / 4)
    (gradient,) = torch.autograd.grad(loss, predicted)
    assert gradient.flatten().tolist() == pytest.approx([0.25, 0, 0, 0])


def test_r_squared_is_that_of_its_definition_and_adds_up_over_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(64, 3, generator=generator)
    guess = truth + 0.5 * torch.randn(64, 3, generator=generator)
    truth[:, 2] = 1.0
    sums = readout_sums(guess[:20], truth[:20]) + readout_sums(guess[20:], truth[20:])
    found = r_squared(sums)
    expected = 1 - (guess - truth).square().sum(0) / (truth - truth.mean(0)).square().sum(0)
    assert found[:2].tolist() == pytest.approx(expected[:2].tolist(), rel=1e-5)
    assert torch.isnan(found[2])


def test_a_number_that_does_not_vary_is_not_predicted() -> None:
    readout = MotionReadout(4, 2)
    assert not readout.has_statistics
    readout.set_statistics(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.0]))
    target = readout.standardise(torch.tensor([[2.0, 2.0]]))
    assert target[0, 0] == 2
    assert torch.isnan(target[0, 1])


def test_settings_that_do_not_fit_are_refused(nano: Build) -> None:
    with pytest.raises(UserError, match="the motion stage has no loss"):
        motion_config(nano, loss__motion=0.0)
    with pytest.raises(UserError, match="mirrored frames have other motion numbers"):
        motion_config(nano, augment__mirror=0.5)
