"""Recipes and settings: round trip, ranges, schedules."""

import pytest

from preprocessing.errors import UserError
from xnemo.config import from_dict, override, to_dict
from xnemo.recipes import RECIPES, get_recipe
from xnemo.training.config import OptimizerConfig, TrainConfig, with_max_steps
from xnemo.training.engines.ema import power_of_width
from xnemo.training.engines.optimizer import learning_rate_scale


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_yaml(name: str) -> None:
    config = get_recipe(name)
    assert from_dict(TrainConfig, to_dict(config)) == config
    assert "\n" not in RECIPES[name].description


def test_an_unknown_recipe_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean tiny"):
        get_recipe("tinny")
    with pytest.raises(UserError, match="recipes are tiny, mini-motion"):
        get_recipe("zzz")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("condition.dropout", 1.0, "condition.dropout is 1.0"),
        ("loss.gan", -1.0, "loss.gan is -1.0"),
        ("optimizer.clip", 0.0, "optimizer.clip is 0.0"),
        ("ema.relative_width", 0.5, "ema.relative_width"),
        ("guards.stall_seconds", 0.0, "guards.stall_seconds"),
        ("data.weights", (0.0,), "data.weights"),
        ("data.threads", 0, "data.threads is 0"),
        ("data.pairs.frames", 0, "data.pairs.frames is 0"),
        ("augment.scale", 1.0, "augment.scale is 1.0"),
        ("stage", "temporal", "the temporal stage cannot train on"),
        ("global_batch", 0, "global_batch is 0"),
        ("samples", 0, "samples is 0"),
        ("optimizer.lr", float("nan"), "optimizer.lr=nan is not finite"),
        ("optimizer.clip", float("nan"), "optimizer.clip=nan is not finite"),
        ("optimizer.betas", (0.9, float("inf")), "optimizer.betas=.* is not finite"),
        ("optimizer.betas", (1.5, 0.9), "optimizer.betas is"),
        ("optimizer.gan_betas", (0.5, 1.0), "optimizer.gan_betas is"),
        ("optimizer.eps", 0.0, "optimizer.eps is 0.0"),
        ("optimizer.final_share", 2.0, "optimizer.final_share is 2.0"),
        ("optimizer.motion_lr_scale", -1.0, "optimizer.motion_lr_scale is -1.0"),
        ("engine.peak_tflops", 0.0, "engine.peak_tflops is 0.0"),
        ("data.retries", -1, "data.retries is -1"),
        ("data.max_bad_samples", -1, "data.max_bad_samples is -1"),
        ("data.pairs.min_pose_degrees", -1.0, "min_pose_degrees is -1.0"),
    ],
)
def test_a_setting_out_of_range_is_named(name: str, value: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        override(get_recipe("tiny"), {name: value})


def test_max_steps_sets_the_number_of_samples() -> None:
    tiny = get_recipe("tiny")
    assert with_max_steps(tiny, 5).samples == 5 * tiny.global_batch
    assert with_max_steps(tiny, None, samples_given=True) == tiny
    with pytest.raises(UserError, match="both --max-steps and samples"):
        with_max_steps(tiny, 5, samples_given=True)
    with pytest.raises(UserError, match="--max-steps is 0"):
        with_max_steps(tiny, 0)


def test_learning_rate_schedules() -> None:
    config = OptimizerConfig(warmup_samples=100, schedule="cosine", final_share=0.1)

    def scale(seen: int) -> float:
        return learning_rate_scale(config, seen, 1100)

    assert scale(0) == pytest.approx(0.01)
    assert scale(99) == pytest.approx(1.0)
    assert scale(600) == pytest.approx(0.55)
    assert scale(1100) == pytest.approx(0.1)
    assert scale(5000) == pytest.approx(0.1)
    linear = OptimizerConfig(schedule="linear")
    assert learning_rate_scale(linear, 250, 1000) == pytest.approx(0.75)
    assert learning_rate_scale(OptimizerConfig(), 10**9, 1000) == 1.0


@pytest.mark.parametrize("width", [0.05, 0.1, 0.2])
def test_the_ema_power_gives_the_relative_width(width: float) -> None:
    power = power_of_width(width)
    # Standard deviation of the profile t**power on [0, 1].
    relative = ((power + 1) / ((power + 2) ** 2 * (power + 3))) ** 0.5
    assert relative == pytest.approx(width)
