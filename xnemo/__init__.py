"""X-NeMo portrait animation: networks, training and animation. No Ray, no MLflow.

import xnemo
pipe = xnemo.XNeMoPipeline.from_pretrained("org/name")
frames = pipe(portrait, driving_frames).frames[0]
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xnemo.animation.animator import Animator
    from xnemo.animation.load_model import load_model
    from xnemo.animation.pipeline import XNeMoPipeline
    from xnemo.model.motion.encoder import MotionEncoder
    from xnemo.model.unet.denoising_unet import DenoisingUNet
    from xnemo.model.unet.reference_net import ReferenceNet
    from xnemo.recipes import get_recipe, train

    __version__: str

__all__ = [
    "Animator",
    "DenoisingUNet",
    "MotionEncoder",
    "ReferenceNet",
    "XNeMoPipeline",
    "__version__",
    "get_recipe",
    "load_model",
    "train",
]

_MODULES = {
    "Animator": "animation.animator",
    # diffusers looks up the parts of a saved pipeline, and their base class, in this package.
    "DenoisingUNet": "model.unet.denoising_unet",
    "MotionEncoder": "model.motion.encoder",
    "ModelMixin": "model.layers.strict_model",
    "ReferenceNet": "model.unet.reference_net",
    "XNeMoPipeline": "animation.pipeline",
    "get_recipe": "recipes",
    "load_model": "animation.load_model",
    "train": "recipes",
}


def __getattr__(name: str) -> object:
    """Import public names on first use, so that `import xnemo` stays light."""
    if name == "__version__":
        from importlib.metadata import version

        return version("xnemo")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
