"""Synthetic talking heads whose motion is known exactly, from CC0 shapes. No Ray, no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from preprocessing.synthetic.motion.capture import read_motion
    from preprocessing.synthetic.motion.columns import MOTION_COLUMNS, UNITS, make_motion
    from preprocessing.synthetic.motion.sampling import sample_motion
    from preprocessing.synthetic.person import Person, sample_person
    from preprocessing.synthetic.scene import Renderer, render

# Loaded at first use: truth files are read without the renderer and its compiler.
_HOMES = {
    "MOTION_COLUMNS": "motion.columns",
    "UNITS": "motion.columns",
    "Person": "person",
    "Renderer": "scene",
    "make_motion": "motion.columns",
    "read_motion": "motion.capture",
    "render": "scene",
    "sample_motion": "motion.sampling",
    "sample_person": "person",
}

__all__ = [
    "MOTION_COLUMNS",
    "UNITS",
    "Person",
    "Renderer",
    "make_motion",
    "read_motion",
    "render",
    "sample_motion",
    "sample_person",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
