"""The subdivided mesh that all people share: quads, materials, texture atlas, occlusion."""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from preprocessing.synthetic.appearance.fields import Floats
from preprocessing.synthetic.body.asset import PARTS, Asset, load_asset
from preprocessing.synthetic.body.subdivision import catmull_clark, subdivide_corners
from preprocessing.synthetic.renderer.device import to_device, wp
from preprocessing.synthetic.renderer.kernels import Material, occlusion, rasterise

#: Vertical axis of the head in the template (x, y).
AXIS = np.array([0, -0.045])
# Parts of the texture square in the atlas: u0, v1, texels a unit, first row.
_HEAD_UV, _BODY_UV = (0.63, 0.84, 1200, 0), (0.0, 1.0, 580, 860)
ATLAS_SHAPE = (860 + 232, 446)


@dataclass(frozen=True)
class Mesh:
    """Fine geometry of N vertices; R render vertices, one for each vertex and texel position."""

    asset: Asset
    # Fine vertices of the template [N, 3], from the coarse ones by this matrix.
    points: NDArray[np.float32]
    matrix: sp.csr_matrix
    quads: NDArray[np.int64]
    material: NDArray[np.int32]
    # Quads around each vertex.
    incidence: sp.csr_matrix
    # Fine vertex [R] and atlas position [R, 2] of each render vertex, and quads of those.
    source: NDArray[np.int64]
    atlas: NDArray[np.float32]
    render_quads: NDArray[np.int32]
    # Ambient visibility [N], 0 to 1.
    visible: NDArray[np.float32]
    # Template position of every texel of the atlas [H, W, 3].
    texel_points: NDArray[np.float32]
    # Masks of lips, eyelids and ears over the atlas, 0 to 1.
    masks: dict[str, NDArray[np.float32]]
    # Fine vertices of the skin and of each eye; a search tree of the skin.
    skin: NDArray[np.int64]
    eyes: tuple[NDArray[np.int64], NDArray[np.int64]]
    tree: cKDTree
    # Angle around the head's axis [N]: 0 in front, positive at the person's left.
    azimuth: NDArray[np.float64]

    def normals(self, points: Floats) -> NDArray[np.float32]:
        """Vertex normals [N, 3] of fine vertices."""
        corner = points[self.quads]
        crossed = np.cross(corner[:, 2] - corner[:, 0], corner[:, 3] - corner[:, 1])
        total = self.incidence @ crossed
        return np.asarray(
            total / (np.linalg.norm(total, axis=1, keepdims=True) + 1e-12), np.float32
        )

    def on_vertices(self, texture: Floats) -> NDArray[np.float32]:
        """Value of an atlas texture at each fine vertex [N], the largest of its positions."""
        at = (self.atlas * ATLAS_SHAPE[::-1] - 0.5).astype(np.float32)
        sampled = cv2.remap(
            np.asarray(texture, np.float32), at[None, :, 0], at[None, :, 1], cv2.INTER_LINEAR
        )[0]
        values = np.zeros(len(self.points), np.float32)
        np.maximum.at(values, self.source, sampled)
        return values


@cache
def load_mesh() -> Mesh:
    """Build the mesh of the packaged asset once a process; takes seconds."""
    asset = load_asset()
    coarse = np.vstack([asset.faces[part] for part in PARTS])
    part = np.repeat(np.arange(len(PARTS)), [4 * len(asset.faces[name]) for name in PARTS])
    uv = subdivide_corners(np.vstack([asset.uv[name] for name in PARTS]).astype(np.float64))
    matrix, quads = catmull_clark(coarse, len(asset.template))
    matrix = matrix.astype(np.float32)
    points = np.asarray(matrix @ asset.template, np.float32)
    material = _materials(part, uv)
    atlas = _atlas(uv)
    key = np.concatenate([quads.reshape(-1, 1), np.round(atlas.reshape(-1, 2) * 1e5)], 1)
    _, first, inverse = np.unique(
        key.astype(np.int64), axis=0, return_index=True, return_inverse=True
    )
    incidence = sp.csr_matrix(
        (
            np.ones(quads.size, np.float32),
            (quads.ravel(), np.repeat(np.arange(len(quads)), 4)),
        ),
        (len(points), len(quads)),
    )
    incidence.sort_indices()
    skin = np.unique(quads[material == Material.SKIN])
    offset = points[:, :2] - AXIS
    render_quads = inverse.reshape(-1, 4).astype(np.int32)
    render_atlas = atlas.reshape(-1, 2)[first].astype(np.float32)
    source = quads.ravel()[first]
    is_skin = material == Material.SKIN
    bare = Mesh(
        asset=asset,
        points=points,
        matrix=matrix,
        quads=quads,
        material=material,
        incidence=incidence,
        source=source,
        atlas=render_atlas,
        render_quads=render_quads,
        visible=np.zeros(0, np.float32),
        texel_points=_texel_points(render_quads[is_skin], render_atlas, points[source]),
        masks={name: _mask(mask) for name, mask in asset.masks.items()},
        skin=skin,
        eyes=(np.unique(quads[part == 2]), np.unique(quads[part == 3])),
        tree=cKDTree(points[skin]),
        azimuth=np.arctan2(offset[:, 0], -offset[:, 1]),
    )
    object.__setattr__(bare, "visible", _visibility(bare, part))
    return bare


def triangles(quads: NDArray[np.integer]) -> NDArray[np.int32]:
    """Split quads [F, 4] into triangles [2 F, 3], first halves first."""
    return np.vstack([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]).astype(np.int32)


def _materials(part: NDArray[np.int64], uv: Floats) -> NDArray[np.int32]:
    by_part = (
        Material.SKIN, Material.LASH, Material.EYE, Material.EYE,
        Material.TEETH, Material.TEETH, Material.MOUTH,
    )  # fmt: skip
    material = np.array(by_part, np.int32)[part]
    u, v = uv[..., 0].mean(1), uv[..., 1].mean(1)
    # The inside of the mouth is part of the body's mesh, with texture islands of its own.
    inside = ((v < 0.14) & (u > 0.74)) | ((u < 0.17) & (v > 0.53) & (v < 0.65))
    material[(part == 0) & inside] = Material.MOUTH
    return material


def _atlas(uv: Floats) -> NDArray[np.float64]:
    """Atlas positions in [0, 1] of quad corners."""
    at = np.zeros(uv.shape)
    on_head = uv[..., 0].mean(1) > 0.63
    for (u0, v1, scale, row), chosen in ((_HEAD_UV, on_head), (_BODY_UV, ~on_head)):
        at[chosen, :, 0] = (uv[chosen, :, 0] - u0) * scale / ATLAS_SHAPE[1]
        at[chosen, :, 1] = ((v1 - uv[chosen, :, 1]) * scale + row) / ATLAS_SHAPE[0]
    return at


def _mask(head: NDArray[np.uint8]) -> NDArray[np.float32]:
    mask = np.zeros(ATLAS_SHAPE, np.float32)
    width = min(head.shape[1], ATLAS_SHAPE[1])
    mask[: head.shape[0], :width] = head[:, :width] / np.float32(255)
    return mask


def _texel_points(quads: NDArray[np.int32], atlas: Floats, points: Floats) -> NDArray[np.float32]:
    """Template position of each texel; texels outside the skin take the nearest one's."""
    height, width = ATLAS_SHAPE
    split = triangles(quads)
    flat = np.concatenate([atlas * (width, height), np.ones((len(atlas), 1))], 1)
    depth = wp.zeros((height, width), dtype=wp.int64, device="cpu")
    wp.launch(
        rasterise,
        dim=len(split),
        device="cpu",
        inputs=[
            to_device(flat.astype(np.float32), wp.vec3, "cpu"),
            wp.zeros(len(flat), dtype=wp.vec4, device="cpu"),
            to_device(split, wp.vec3i, "cpu"),
            wp.zeros(len(split), dtype=wp.int32, device="cpu"),
            wp.zeros((2, 2), dtype=float, device="cpu"),
            1,
            depth,
        ],
    )
    key = depth.numpy()
    corner = split[(key & 0x7FFFFFFF).astype(np.int64)]
    y, x = np.mgrid[0:height, 0:width] + 0.5
    a, b, c = (flat[corner[..., k], :2] for k in range(3))

    def area(p: Floats, q: Floats, at_x: Floats, at_y: Floats) -> Floats:
        d = q - p
        return np.asarray(d[..., 0] * (at_y - p[..., 1]) - d[..., 1] * (at_x - p[..., 0]))

    whole = area(a, b, c[..., 0], c[..., 1]) + 1e-12
    w0, w1 = area(b, c, x, y) / whole, area(c, a, x, y) / whole
    share = np.stack([w0, w1, 1 - w0 - w1], -1)
    found = (points[corner] * share[..., None]).sum(2)
    empty = key == 0
    _, label = cv2.distanceTransformWithLabels(
        empty.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    nearest = np.zeros((label.max() + 1, 3), np.float32)
    nearest[label[~empty]] = found[~empty]
    return nearest[label]


def _visibility(mesh: Mesh, part: NDArray[np.int64], rays: int = 64) -> NDArray[np.float32]:
    """Ambient visibility of the template, with fixed values inside mouth and eyes."""
    solid = np.isin(mesh.material, (Material.SKIN, Material.MOUTH, Material.EYE))
    surface = wp.Mesh(
        points=to_device(mesh.points, wp.vec3, "cpu"),
        indices=to_device(triangles(mesh.quads[solid]).ravel(), wp.int32, "cpu"),
    )
    directions = np.random.default_rng(0).normal(size=(rays, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    visible = wp.zeros(len(mesh.points), dtype=float, device="cpu")
    wp.launch(
        occlusion,
        dim=len(mesh.points),
        device="cpu",
        inputs=[
            surface.id,
            to_device(mesh.points, wp.vec3, "cpu"),
            to_device(mesh.normals(mesh.points), wp.vec3, "cpu"),
            to_device(directions.astype(np.float32), wp.vec3, "cpu"),
            0.09,
            visible,
        ],
    )
    result = visible.numpy().copy()
    for chosen, value in (
        ((part == 0) & (mesh.material == Material.MOUTH), 0.1),
        (part == 6, 0.4),
        (mesh.material == Material.TEETH, 0.95),
        (mesh.material == Material.EYE, 0.9),
        (mesh.material == Material.LASH, 0.5),
    ):
        result[np.unique(mesh.quads[chosen])] = value
    return result.astype(np.float32)
