"""Configuration: overrides by dotted name, type checks, near-miss answers, round trips."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from preprocessing.errors import UserError
from xnemo import config as cfg


@dataclass(frozen=True)
class Optimizer:
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    name: Literal["adamw", "sgd"] = "adamw"


@dataclass(frozen=True)
class Recipe:
    steps: int = 10
    bundle: str | None = None
    ema: bool = True
    widths: tuple[int, ...] = (32, 64)
    optimizer: Optimizer = field(default_factory=Optimizer)
    discriminator: Optimizer | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"steps={self.steps}", "give at least 1")


def test_dictionary_and_back_is_the_same_config():
    recipe = Recipe(widths=(1, 2, 3), discriminator=Optimizer(name="sgd"), bundle="x")
    assert cfg.from_dict(Recipe, cfg.to_dict(recipe)) == recipe


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("steps=7", ("steps",), 7),
        ("optimizer.lr=3e-5", ("optimizer", "lr"), 3e-5),
        ("optimizer.lr=1", ("optimizer", "lr"), 1.0),
        ("optimizer.betas=[0.5, 9e-1]", ("optimizer", "betas"), (0.5, 0.9)),
        ("widths=[8,16]", ("widths",), (8, 16)),
        ("bundle=null", ("bundle",), None),
        ("bundle=runs/a=b", ("bundle",), "runs/a=b"),
        ("ema=false", ("ema",), False),
    ],
)
def test_override_reads_values_by_their_type(text, path, expected):
    value = cfg.override(Recipe(), [text])
    for name in path:
        value = getattr(value, name)
    assert value == expected
    assert type(value) is type(expected)


def test_override_takes_nested_and_dotted_mappings_alike():
    nested = cfg.override(Recipe(), {"optimizer": {"lr": 0.5}, "steps": 3})
    dotted = cfg.override(Recipe(), {"optimizer.lr": 0.5, "steps": 3})
    assert nested == dotted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer.lrr=1", "did you mean optimizer.lr?"),
        ("optimiser.lr=1", "did you mean optimizer.lr?"),
        ("lr=1", "did you mean optimizer.lr?"),
        ("steps=many", "steps='many'"),
        ("steps=1.5", "steps=1.5"),
        ("steps=0", "at least 1"),
        ("optimizer.name=adam", "one of 'adamw', 'sgd'"),
        ("steps.more=1", "no fields of its own"),
        ("steps", "no '='"),
        ("steps=[", "not YAML"),
        ("optimizer=3", "set them, as in optimizer."),
        ("steps=true", "give a whole number"),
        ("optimizer.lr=.nan", "give a finite number"),
        ("optimizer.lr=-.inf", "give a finite number"),
    ],
)
def test_a_wrong_override_names_the_field_and_the_remedy(text, message):
    with pytest.raises(UserError) as caught:
        cfg.override(Recipe(), [text])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@dataclass(frozen=True)
class Pair:
    widths: tuple[int, ...] = (1, 2)
    flags: tuple[bool, ...] = (True, False)

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.flags):
            raise UserError("widths and flags differ in length", "give both one entry a level")


def test_a_key_that_yaml_reads_as_a_number_is_an_unknown_setting():
    with pytest.raises(UserError, match="no setting '1'"):
        cfg.override(Recipe(), {1: 2})


def test_fields_that_must_fit_each_other_are_changed_together():
    assert cfg.override(Pair(), ["widths=[1]", "flags=[true]"]) == Pair((1,), (True,))
    with pytest.raises(UserError, match="differ in length"):
        cfg.override(Pair(), ["widths=[1]"])


def test_the_later_of_two_values_wins():
    assert cfg.override(Recipe(), ["steps=3", "steps=4"]).steps == 4


def test_optional_section_is_built_from_a_mapping():
    assert cfg.from_dict(Recipe, {"discriminator": {"lr": 1.0}}).discriminator == Optimizer(lr=1.0)


def test_unknown_field_in_a_file_is_refused():
    with pytest.raises(UserError, match=r"did you mean optimizer.betas\?"):
        cfg.from_dict(Recipe, {"optimizer": {"beta": [0, 0]}})


def test_digest_follows_values_only():
    assert cfg.digest(Recipe()) == cfg.digest(cfg.override(Recipe(), ["steps=10"]))
    assert cfg.digest(Recipe()) != cfg.digest(Recipe(steps=11))


def test_field_names_are_dotted_and_complete():
    assert list(cfg.field_names(Recipe))[:6] == [
        "steps", "bundle", "ema", "widths", "optimizer.lr", "optimizer.betas",
    ]  # fmt: skip
