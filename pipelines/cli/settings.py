"""Settings of a command: loading, overriding, and printing as YAML with the field comments."""

import ast
import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import typer

from preprocessing.errors import UserError

C = TypeVar("C")

#: Class of each command's settings, as MODULE:NAME, so that it is imported only where needed.
SETTINGS_CLASSES = {
    "preprocess": "preprocessing.config:PreprocessConfig",
    "train": "xnemo.training.config:TrainConfig",
    "tune": "xnemo.training.config:TrainConfig",
    "doctor": "xnemo.training.config:TrainConfig",
    "animate": "pipelines.animate.job:AnimateOptions",
    "encode-motion": "pipelines.animate.job:AnimateOptions",
    "ui": "pipelines.animate.job:AnimateOptions",
    "evaluate": "pipelines.evaluate.settings:EvaluateOptions",
    "demo": "pipelines.demo.run:DemoConfig",
}


def settings_class(command: str) -> type[Any]:
    """Return the dataclass of a command's settings."""
    module, _, name = SETTINGS_CLASSES[command].partition(":")
    found: type[Any] = getattr(import_module(module), name)
    return found


def configure(
    config: C,
    file: Path | None,
    assignments: Sequence[str] | None,
    named: Mapping[str, object] | None = None,
    *,
    print_config: bool = False,
) -> C:
    """Return the config overridden by a YAML file, then by the command line.

    Args:
        config: a recipe's config or the defaults.
        file: YAML file of settings; None for none.
        assignments: NAME=VALUE words.
        named: settings that have an option of their own, by dotted name; None counts as not given.
        print_config: print the resolved config as YAML and exit.

    Raises:
        UserError: the file is missing or not a mapping, or a setting is unknown or of the wrong
            type.
        typer.Exit: the config was printed.
    """
    from xnemo.config import override

    if file is not None:
        config = override(config, read_settings(file))
    config = override(config, assignments or [])
    given = {name: value for name, value in (named or {}).items() if value is not None}
    config = override(config, given)
    if print_config:
        print_and_exit(config)
    return config


def print_and_exit(config: object) -> NoReturn:
    """Print a config as YAML and end the command."""
    print(to_yaml(config), end="")
    raise typer.Exit


def read_settings(file: Path) -> dict[str, Any]:
    """Read a YAML file of settings, nested or by dotted names."""
    import yaml

    try:
        settings = yaml.safe_load(file.read_text())
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}", "give an existing file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not YAML: {error}", "write NAME: VALUE lines") from error
    if not isinstance(settings, dict):
        raise UserError(f"{file} contains no settings", "write NAME: VALUE lines")
    return settings


def to_yaml(config: Any) -> str:
    """Return a config as YAML with each field's source comment above it; loads with `--config`."""
    from xnemo.config import to_dict

    return "".join(f"{line}\n" for line in _yaml_lines(config, to_dict(config), ""))


def _yaml_lines(config: Any, plain: Mapping[str, Any], indent: str) -> Iterator[str]:
    import yaml

    comments = field_comments(type(config))
    for name, value in plain.items():
        yield from (f"{indent}# {line}" for line in comments.get(name, ()))
        nested = getattr(config, name)
        if dataclasses.is_dataclass(nested):
            yield f"{indent}{name}:"
            yield from _yaml_lines(nested, value, f"{indent}  ")
        else:
            # In flow style a list takes one line; the braces are cut off.
            text = yaml.safe_dump(
                {name: value}, default_flow_style=True, width=float("inf"), allow_unicode=True
            )
            yield indent + text.strip()[1:-1]


def field_comments(cls: type[Any]) -> dict[str, tuple[str, ...]]:
    """Return the comment lines directly above each field of a dataclass, by field name."""
    comments: dict[str, tuple[str, ...]] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        lines, _ = inspect.getsourcelines(base)
        (tree,) = ast.parse(inspect.cleandoc("\n" + "".join(lines))).body
        assert isinstance(tree, ast.ClassDef)
        for node in tree.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                above: list[str] = []
                row = node.lineno - 2
                while row >= 0 and lines[row].strip().startswith("#"):
                    above.insert(0, lines[row].strip().removeprefix("#").strip())
                    row -= 1
                comments[node.target.id] = tuple(above)
    return comments
