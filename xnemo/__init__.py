"""X-NeMo portrait animation: networks, training and animation. No Ray, no MLflow.

import xnemo
pipe = xnemo.XNeMoPipeline.from_pretrained("org/name")
frames = pipe(portrait, driving_frames).frames[0]
"""

from typing import TYPE_CHECKING

from preprocessing.lazy import lazy_names

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

__getattr__, __dir__ = lazy_names(__name__, _MODULES)
