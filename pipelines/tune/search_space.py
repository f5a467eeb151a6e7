"""Search spaces: a YAML file of dotted setting names and the distribution of each.

optimizer.lr: {loguniform: [1.0e-5, 1.0e-2]}
condition.reference_masking: {choice: [0.0, 0.3, 0.5]}
global_batch: {randint: [8, 64]}
"""

import difflib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from preprocessing.errors import UserError
from xnemo.config import override
from xnemo.training.config import TrainConfig

#: Distributions, by the name of Ray Tune's function, and the number of their arguments; None for
#: any number of values of any type.
DRAWS: dict[str, int | None] = {
    "choice": None,
    "grid": None,
    "uniform": 2,
    "loguniform": 2,
    "quniform": 3,
    "randint": 2,
    "lograndint": 2,
}

Space = dict[str, tuple[str, list[Any]]]


def read_space(path: Path, config: TrainConfig) -> Space:
    """Read a search space and check every name and value against the recipe.

    Returns:
        For every dotted name, its distribution and the arguments.

    Raises:
        UserError: the file is missing or malformed, a name is unknown, or a value is invalid.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "give an existing file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML", "write NAME: {choice: [A, B]} lines") from error
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path} has no search space", "write NAME: {choice: [A, B]} lines")
    return {str(name): _read_draw(str(name), value, config) for name, value in content.items()}


def _read_draw(name: str, value: Any, config: TrainConfig) -> tuple[str, list[Any]]:
    form = f"write {name}: {{uniform: [LOW, HIGH]}}, or another of {', '.join(DRAWS)}"
    if not isinstance(value, Mapping) or len(value) != 1:
        # First, because a misspelt name is the more likely mistake.
        _check_name(name, config)
        raise UserError(f"{name} has no distribution: {value!r}", form)
    (draw, values), *_ = value.items()
    if draw not in DRAWS:
        near = difflib.get_close_matches(str(draw), DRAWS, n=1)
        hint = f"did you mean {near[0]!r}? {form}" if near else form
        raise UserError(f"{name} has the unknown distribution {draw!r}", hint)
    wanted = DRAWS[draw]
    if not isinstance(values, list) or not values or (wanted and len(values) != wanted):
        raise UserError(f"{name}: {draw} takes {wanted or 'some'} values, not {values!r}", form)
    if wanted:
        values = [_number(value) for value in values]
        _check_range(name, draw, values, form)
    # Both ends of a range, or all choices, must be valid in the recipe.
    for example in values[:2] if wanted else values:
        override(config, {name: int(example) if "int" in draw else example})
    return draw, values


def _number(value: Any) -> Any:
    """Parse 1e-4, which YAML 1.1 reads as a string, as a number."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _check_range(name: str, draw: str, values: list[Any], form: str) -> None:
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) != len(values) or not numbers[0] < numbers[1]:
        raise UserError(f"{name}: {draw} of {values!r} is not a range", form)
    if "log" in draw and numbers[0] <= 0:
        raise UserError(f"{name}: {draw} from {numbers[0]}", "start above 0")


def _check_name(name: str, config: TrainConfig) -> None:
    """Raise an error that suggests the nearest name if ``name`` is unknown."""
    node: Any = config
    for part in name.split("."):
        if not hasattr(node, part):
            override(config, {name: None})
        node = getattr(node, part, None)


def count_trials(space: Space, draws: int) -> int:
    """Return the number of trials: a grid is run completely by every draw."""
    return draws * math.prod(len(values) for draw, values in space.values() if draw == "grid")


def to_tune(space: Space) -> dict[str, Any]:
    """Return Ray Tune's form of a search space."""
    from ray import tune

    draws: dict[str, Callable[[list[Any]], Any]] = {
        "choice": tune.choice,
        "grid": tune.grid_search,
        **{name: _spread(getattr(tune, name)) for name, count in DRAWS.items() if count},
    }
    return {name: draws[draw](values) for name, (draw, values) in space.items()}


def _spread(function: Callable[..., Any]) -> Callable[[list[Any]], Any]:
    return lambda values: function(*values)
