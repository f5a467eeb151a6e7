"""Refuses settings below what can run."""

from typing import Any

from preprocessing.errors import UserError


def require_at_least(section: str, config: Any, **least: float) -> None:
    """Refuse a field below its least value, by name."""
    for name, bound in least.items():
        value = getattr(config, name)
        if value is not None and not value >= bound:
            raise UserError(f"{section}{name} is {value}", f"set it to {bound} or more")
