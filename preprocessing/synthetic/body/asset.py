"""The packaged head-and-shoulders model: shapes, actions, skinning, texture coordinates."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ASSET = Path(__file__).parents[1] / "data" / "bust.npz"
#: Parts of the mesh in the order of their quads.
PARTS = ("body", "lashes", "left_eye", "right_eye", "upper_teeth", "lower_teeth", "tongue")
#: Names of the factors of `Asset.phenotype_mask`.
PHENOTYPE_FACTORS = (
    "african", "asian", "caucasian", "male", "female", "young", "old",
    "minmuscle", "averagemuscle", "maxmuscle", "minweight", "averageweight", "maxweight",
)  # fmt: skip


@dataclass(frozen=True)
class Asset:
    """The model in metres: z up, the face looks to -y, +x is the person's left. V vertices.

    Built by scripts/build_synthetic_asset.py from CC0 data.
    """

    # Average person [V, 3] and the change of each phenotype [G, V, 3]; a phenotype's weight is the
    # product of the factors in its row of the mask [G, factors].
    template: NDArray[np.float32]
    phenotype: NDArray[np.float32]
    phenotype_mask: NDArray[np.uint8]
    # Local changes [2 L, V, 3]: for each of the L names one towards +1 and one towards -1.
    local: NDArray[np.float32]
    local_names: tuple[str, ...]
    # Facial actions [A, V, 3].
    actions: NDArray[np.float32]
    action_names: tuple[str, ...]
    # Skinning weights of torso, three neck bones and head [V, 5], and of both arms [V, 2].
    weights: NDArray[np.float32]
    arms: NDArray[np.float32]
    # Heads of the neck bones, the head bone and both arms [6, 3], with their changes.
    joints: NDArray[np.float32]
    joints_phenotype: NDArray[np.float32]
    joints_local: NDArray[np.float32]
    # Quads [F, 4] and the texture coordinates of their corners [F, 4, 2] of each part.
    faces: dict[str, NDArray[np.int32]]
    uv: dict[str, NDArray[np.float32]]
    # Masks of the head's part of the texture, uint8: lips, eyelids, ears.
    masks: dict[str, NDArray[np.uint8]]


def read_asset(path: Path) -> Asset:
    """Read an asset file."""
    with np.load(path) as file:
        arrays: dict[str, NDArray[Any]] = {name: file[name] for name in file.files}
    return Asset(
        **{
            name: arrays[name].astype(np.float32)
            for name in (
                "template", "phenotype", "local", "actions", "weights", "arms",
                "joints", "joints_phenotype", "joints_local",
            )
        },
        phenotype_mask=arrays["phenotype_mask"],
        local_names=tuple(map(str, arrays["local_names"])),
        action_names=tuple(map(str, arrays["action_names"])),
        faces={part: arrays[f"faces_{part}"] for part in PARTS},
        uv={part: arrays[f"uv_{part}"] for part in PARTS},
        masks={name: arrays[f"mask_{name}"] for name in ("lips", "eyelids", "ears")},
    )  # fmt: skip


@cache
def load_asset() -> Asset:
    """Read the packaged asset once a process."""
    return read_asset(ASSET)
