"""Configuration as nested frozen dataclasses: plain data, dotted overrides, digests.

Command line (`optimizer.lr=1e-4`), YAML files (nested or dotted keys) and search spaces share one
syntax. pydantic checks values against the field's annotation; an error for an unknown name suggests
the nearest existing one.
"""

import dataclasses
import difflib
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, ClassVar, Protocol, TypeVar, get_args, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from preprocessing.errors import UserError

C = TypeVar("C")


class Dataclass(Protocol):
    """Any instance of a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


def to_dict(config: Dataclass) -> dict[str, Any]:
    """Return a config as nested plain data that JSON and YAML can hold (tuples become lists)."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config), allow_nan=False))
    return plain


def from_dict(cls: type[C], data: Mapping[str, Any]) -> C:
    """Build a config from nested plain data; fields left out keep their defaults.

    Raises:
        UserError: A name is unknown, or a value has the wrong type or is invalid.
    """
    return _build(cls, data, prefix="")


def override(config: C, assignments: Iterable[str] | Mapping[str, Any]) -> C:
    """Return the config with dotted fields replaced.

    Args:
        config: Frozen dataclass instance, nested or flat.
        assignments: `name.of.field=value` strings with YAML values, or a mapping of dotted names
            (or nested mappings) to values.

    Raises:
        UserError: As in `from_dict`, and for an assignment without `=`.
    """
    pairs = assignments.items() if isinstance(assignments, Mapping) else map(_split, assignments)
    changes: dict[str, Any] = {}
    for name, value in pairs:
        # YAML parses a key such as 1 as a number.
        _merge(changes, str(name).split("."), value)
    # All at once: fields that depend on each other are valid only together.
    return _replace(config, changes, prefix="")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the nested settings of `to_dict` by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def digest(config: Dataclass) -> str:
    """Return the sha256 of the config's canonical JSON, as hex."""
    text = json.dumps(to_dict(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def field_names(cls: type, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all leaf fields of a config class."""
    hints = _hints(cls)
    for field in dataclasses.fields(cls):
        nested = _nested(hints[field.name])
        if nested is None:
            yield prefix + field.name
        else:
            yield from field_names(nested, f"{prefix}{field.name}.")


def _split(assignment: str) -> tuple[str, Any]:
    name, equals, text = assignment.partition("=")
    if not equals:
        raise UserError(
            f"override {assignment!r} has no '='", "write NAME=VALUE, as in optimizer.lr=1e-4"
        )
    try:
        return name.strip(), _number(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise UserError(f"the value of {name} is not YAML: {text!r}", "quote it") from error


def _number(value: Any) -> Any:
    """Parse 1e-4 as a number; YAML 1.1 takes it for text because it has no dot."""
    if isinstance(value, list):
        return [_number(item) for item in value]
    if isinstance(value, str):
        try:
            return float(value) if "e" in value.lower() else value
        except ValueError:
            return value
    return value


def _merge(changes: dict[str, Any], path: list[str], value: Any) -> None:
    """Put a value into the tree of changes; later ones replace earlier ones."""
    head, *rest = path
    if rest:
        below = changes.get(head)
        if not isinstance(below, dict):
            below = changes[head] = {}
        _merge(below, rest, value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _merge(changes, [head, *str(key).split(".")], item)
    else:
        changes[head] = value


def _replace(config: C, changes: Mapping[str, Any], prefix: str) -> C:
    cls = type(config)
    values = {}
    for key, value in changes.items():
        name = prefix + key
        _require_field(cls, key, name, value)
        current = getattr(config, key)
        if dataclasses.is_dataclass(current) and isinstance(value, Mapping):
            values[key] = _replace(current, value, f"{name}.")
        else:
            values[key] = _build_value(_hints(cls)[key], value, name)
    return dataclasses.replace(config, **values)  # type: ignore[type-var]


def _build(cls: type[C], data: Mapping[str, Any], prefix: str) -> C:
    if not isinstance(data, Mapping):
        raise UserError(f"{prefix or cls.__name__} is {data!r}", "give its fields as a mapping")
    hints = _hints(cls)
    values = {}
    for key, value in data.items():
        name = f"{prefix}.{key}".lstrip(".")
        _require_field(cls, key, name, value)
        values[key] = _build_value(hints[key], value, name)
    try:
        return cls(**values)
    except TypeError as error:
        raise UserError(
            f"{prefix or cls.__name__}: {error}", "give every field that has no default"
        ) from error


def _build_value(annotation: Any, value: Any, name: str) -> Any:
    nested = _nested(annotation)
    if isinstance(value, Mapping):
        if nested is None:
            raise UserError(f"{name} has no fields of its own", f"give {_readable(annotation)}")
        return _build(nested, value, name)
    if nested is not None and value is not None:
        example = next(field_names(nested, f"{name}."))
        raise UserError(f"{name} is {value!r}, but has fields", f"set them, as in {example}=VALUE")
    if isinstance(value, bool) and annotation in (int, float):
        raise UserError(f"{name} is {str(value).lower()}", f"give {_readable(annotation)}")
    try:
        built = _adapter(annotation).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]["msg"].lower()
        raise UserError(f"{name}={value!r}: {problem}", f"give {_readable(annotation)}") from error
    if not _is_finite(built):
        # No setting has a use for it, NaN passes comparisons, and JSON has neither.
        raise UserError(f"{name}={value!r} is not finite", "give a finite number")
    return built


def _is_finite(value: Any) -> bool:
    """Return whether a value, or every item of a list, is finite."""
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


@cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation)


def _hints(cls: type[Any]) -> dict[str, Any]:
    return get_type_hints(cls)


def _nested(annotation: Any) -> type | None:
    """Return the dataclass in an annotation, optional or not."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and dataclasses.is_dataclass(candidate):
            return candidate
    return None


def _require_field(cls: type, key: str, name: str, value: Any) -> None:
    """Raise for a key that is not a field; `name` is its dotted name, `value` its new value."""
    known = [field.name for field in dataclasses.fields(cls)]
    if key in known:
        return
    above = name[: len(name) - len(key)]
    below = ""
    while isinstance(value, Mapping) and len(value) == 1:
        step, value = next(iter(value.items()))
        below += f".{step}"
    near = difflib.get_close_matches(key, known, n=1)
    # The name may be right and only its section missing.
    leaf = (key + below).rsplit(".", 1)[-1]
    elsewhere = [full for full in field_names(cls) if full.rsplit(".", 1)[-1] == leaf]
    if near:
        hint = f"did you mean {above}{near[0]}{below}?"
    elif elsewhere:
        hint = f"did you mean {above}{elsewhere[0]}?"
    else:
        hint = f"choose one of: {', '.join(known)}"
    raise UserError(f"there is no setting '{name}{below}'", hint)


def _readable(annotation: Any) -> str:
    if isinstance(annotation, type) and not get_args(annotation):
        return {
            "int": "a whole number",
            "float": "a number",
            "bool": "true or false",
            "str": "text",
        }.get(annotation.__name__, annotation.__name__)
    choices = get_args(annotation)
    if type(None) in choices:
        kinds = [_readable(choice) for choice in choices if choice is not type(None)]
        return " or ".join([*kinds, "null"])
    if choices and all(isinstance(choice, str) for choice in choices):
        return "one of " + ", ".join(map(repr, choices))
    return str(annotation).replace("typing.", "")
