"""Loading AnimateDiff motion modules into the temporal modules."""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from preprocessing.errors import UserError
from xnemo.model.networks import TEMPORAL, Networks
from xnemo.model.weights.check import assign_tensors, check_tensors
from xnemo.model.weights.files import read_tensors

# diffusers' MotionAdapter has the same layers under other names.
ADAPTER_NAMES = (
    (r"\.attn([12])\.", lambda m: f".attention_blocks.{int(m[1]) - 1}."),
    (r"\.norm([12])\.", lambda m: f".norms.{int(m[1]) - 1}."),
    (r"\.norm3\.", lambda m: ".ff_norm."),
    (r"\.temporal_modules\.(\d+)\.", lambda m: f".temporal_modules.{m[1]}.temporal_transformer."),
)


def load_animatediff(networks: Networks, path: str | Path) -> None:
    """Load an AnimateDiff v2 motion module into the denoiser's temporal modules.

    Only version 2 has modules in the middle block, as X-NeMo does. Position tables, the same fixed
    sinusoids, are skipped.

    Args:
        networks: With temporal modules; may be on the meta device.
        path: The original checkpoint, or a folder or file of a diffusers `MotionAdapter`.

    Raises:
        UserError: The network has no temporal modules, or the file does not fit; nothing is loaded.
    """
    expected = {
        name: tensor
        for name, tensor in networks.denoiser.state_dict().items()
        if TEMPORAL in name and not name.endswith(".pe")
    }
    if not expected:
        raise UserError(
            "the denoiser has no temporal modules to load AnimateDiff into", "set unet.temporal"
        )
    found = _official_names(read_tensors(path))
    check_tensors(
        found, expected, str(path), remedy="give a version 2 motion module for Stable Diffusion 1.x"
    )
    assign_tensors(networks.denoiser, found, keep_dtype=False)


def _official_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        if name.endswith(".pe"):
            continue
        # Checkpoints of the training script have the prefix of its DDP wrapper.
        name = name.removeprefix("module.").replace(".motion_modules.", TEMPORAL)
        if ".temporal_transformer." not in name:
            for pattern, replacement in ADAPTER_NAMES:
                name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed
