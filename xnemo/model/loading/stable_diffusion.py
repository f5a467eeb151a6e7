"""Loading Stable Diffusion 1.x weights."""

import json
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from preprocessing.errors import UserError
from preprocessing.paths import user_path
from xnemo.model.networks import TEMPORAL, Networks
from xnemo.model.unet.config import UNetConfig
from xnemo.model.weights.check import assign_tensors, check_tensors
from xnemo.model.weights.files import read_tensors

# The reference network has no output layers; everything else must match.
OUTPUT_LAYERS = ("conv_norm_out.", "conv_out.")
ADDED_MODULES = (".motion_modules.", TEMPORAL)
SINGLE_FILE_PREFIX = "model.diffusion_model."


def load_stable_diffusion(networks: Networks, path: str | Path) -> None:
    """Load a Stable Diffusion 1.x UNet into the reference network and the base of the denoiser.

    Motion and temporal modules keep their weights. With zero-initialised output layers the denoiser
    then predicts what Stable Diffusion predicts.

    Args:
        networks: Of the same widths; may be on the meta device.
        path: Folder of a diffusers pipeline or of its UNet, a weights file of the UNet, or a
            single-file checkpoint with the original layer names.

    Raises:
        UserError: There are no weights, or they do not fit; nothing is loaded.
    """
    location = user_path(path)
    if (location / "unet").is_dir():
        location = location / "unet"
    if location.is_dir():
        _check_config(location / "config.json", networks.config.unet)
    layers = networks.config.unet.layers
    tensors = _read_unet(location, layers)
    base = {
        name: tensor
        for name, tensor in networks.denoiser.state_dict().items()
        if not any(kind in name for kind in ADDED_MODULES)
    }
    check_tensors(
        tensors,
        base,
        str(location),
        remedy="give a Stable Diffusion 1.x UNet of the configured widths",
    )
    # Mapped a second time, so that training one network does not change the other.
    reference = {
        name: tensor
        for name, tensor in _read_unet(location, layers).items()
        if not name.startswith(OUTPUT_LAYERS)
    }
    assign_tensors(networks.denoiser, tensors, keep_dtype=False)
    assign_tensors(networks.reference_net, reference, keep_dtype=False)


def _read_unet(location: Path, layers: int) -> dict[str, Tensor]:
    """Return the UNet's tensors under diffusers' names, which original ones are converted to."""
    tensors = read_tensors(location)
    original = {name: t for name, t in tensors.items() if name.startswith(SINGLE_FILE_PREFIX)}
    if not original:
        return tensors
    # Slow to import, and rarely needed.
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    try:
        converted: dict[str, Tensor] = convert_ldm_unet_checkpoint(
            original, {"layers_per_block": layers}
        )
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"{location} has the layer names of the original Stable Diffusion, but lacks {error}",
            "fetch it again",
        ) from error
    return converted


def _check_config(path: Path, expected: UNetConfig) -> None:
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        return  # without a config only the tensors' shapes are checked
    except ValueError as error:
        raise UserError(f"{path} is not JSON", "fetch it again") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} contains no configuration", "fetch it again")
    own = ("module_norm_groups", "motion_width", "temporal", "max_frames")
    found = UNetConfig.from_diffusers(data, **{name: getattr(expected, name) for name in own})
    if found != expected:
        differing = [
            f"{name} {value} (configured: {asdict(expected)[name]})"
            for name, value in asdict(found).items()
            if value != asdict(expected)[name]
        ]
        raise UserError(f"{path} has {', '.join(differing)}", "change the unet section to match it")
