"""Synthetic talking heads whose motion is known exactly, from CC0 shapes. No Ray, no torch."""

from typing import TYPE_CHECKING

from preprocessing.lazy import lazy_names

if TYPE_CHECKING:
    from preprocessing.synthetic.motion.capture import read_motion
    from preprocessing.synthetic.motion.columns import MOTION_COLUMNS, UNITS, make_motion
    from preprocessing.synthetic.motion.sampling import sample_motion
    from preprocessing.synthetic.person import Person, sample_person
    from preprocessing.synthetic.scene import Renderer, render

# Loaded at first use: truth files are read without the renderer and its compiler.
_MODULES = {
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

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
