"""A search space is checked before anything is started."""

from pathlib import Path

import pytest

from pipelines.tune.search_space import read_space, to_tune
from preprocessing.errors import UserError
from xnemo.recipes import get_recipe


def space(tmp_path: Path, text: str) -> dict:
    file = tmp_path / "space.yaml"
    file.write_text(text)
    return read_space(file, get_recipe("tiny"))


def test_every_distribution_reaches_ray(tmp_path: Path) -> None:
    found = space(
        tmp_path,
        """
        optimizer.lr: {loguniform: [1.0e-5, 1.0e-2]}
        condition.reference_masking: {choice: [0.0, 0.3]}
        loss.gan: {quniform: [0.1, 0.5, 0.1]}
        loss.l1: {uniform: [0.5, 2]}
        global_batch: {randint: [8, 32]}
        optimizer.warmup_samples: {lograndint: [1, 100]}
        optimizer.schedule: {grid: [constant, cosine]}
        """,
    )
    drawn = {
        name: way.sample() for name, way in to_tune(found).items() if name != "optimizer.schedule"
    }
    assert 1e-5 <= drawn["optimizer.lr"] <= 1e-2
    assert drawn["condition.reference_masking"] in (0.0, 0.3)
    assert 8 <= drawn["global_batch"] < 32
    assert to_tune(found)["optimizer.schedule"] == {"grid_search": ["constant", "cosine"]}


def test_a_power_of_ten_without_a_point_is_a_number_too(tmp_path: Path) -> None:
    found = space(tmp_path, "optimizer.lr: {loguniform: [1e-5, 1e-2]}")
    assert found == {"optimizer.lr": ("loguniform", [1e-5, 1e-2])}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("optimiser.lr: {uniform: [0, 1]}", "optimizer"),
        ("optimizer.lrr: {uniform: [0, 1]}", "optimizer.lr"),
        ("optimizer.lr: {loguniforn: [1, 2]}", "did you mean 'loguniform'"),
        ("optimizer.lr: {uniform: [1]}", "takes 2 values"),
        ("optimizer.lr: {uniform: [2, 1]}", "is not a range"),
        ("optimizer.lr: {loguniform: [0, 1]}", "start above 0"),
        ("optimizer.lr: {uniform: [a, b]}", "is not a range"),
        ("optimizer.schedule: {choice: [constant, cosinus]}", "cosinus"),
        ("condition.dropout: {uniform: [0, 2]}", "condition.dropout is 2"),
        ("optimizer.lr: 0.1", "no distribution"),
        ("optimizer.lrr: 0.1", "optimizer.lr"),
        ("optimizer.lr: {choice: []}", "takes some values"),
        ("- a", "has no search space"),
        ("a: [", "is not YAML"),
    ],
)
def test_errors_take_one_line_and_name_the_problem(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(UserError) as refusal:
        space(tmp_path, line)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.yaml"):
        read_space(tmp_path / "nowhere.yaml", get_recipe("tiny"))
