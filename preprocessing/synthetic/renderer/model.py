"""A person's geometry in the arrays that the kernels read."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from preprocessing.synthetic.appearance.geometry import Layer, Surface
from preprocessing.synthetic.body.mesh import Mesh, triangles
from preprocessing.synthetic.body.pose import eye_centre
from preprocessing.synthetic.person import Person
from preprocessing.synthetic.renderer.kernels import Material


@dataclass(frozen=True)
class Model:
    """Render vertices of a person, R in all, and triangles."""

    # Fine vertex under each vertex and the height above it, or -1 and a rest position.
    base: NDArray[np.int32]
    height: NDArray[np.float32]
    rest: NDArray[np.float32]
    rest_normals: NDArray[np.float32]
    head_share: NDArray[np.float32]
    coordinates: NDArray[np.float32]
    # Template position; of eyes the offset from their centre.
    template: NDArray[np.float32]
    visible: NDArray[np.float32]
    triangles: NDArray[np.int32]
    material: NDArray[np.int32]
    # Those of the triangles that throw shadows.
    casting: NDArray[np.int32]
    casting_material: NDArray[np.int32]


def build_model(mesh: Mesh, person: Person) -> Model:
    """Join mesh, layers and free surfaces of a person."""
    count = len(mesh.source)
    layers, surfaces = person.layers, person.surfaces
    bound = sum(len(s.rest) for s in surfaces)
    attached = count + sum(len(layer.base) for layer in layers)
    no_rest = np.zeros((attached, 3), np.float32)
    shown = ~_under_cloth(mesh, layers)[mesh.quads].all(1)
    quads, material = [mesh.render_quads[shown]], [mesh.material[shown]]
    casting = [_coarse_skin(mesh)]
    casting_material = [np.full(len(casting[0]), Material.SKIN, np.int32)]
    offset = count
    items: list[Layer | Surface] = [*layers, *(s.surface for s in surfaces)]
    for item in items:
        quads.append((item.quads + offset).astype(np.int32))
        material.append(np.full(len(item.quads), item.material, np.int32))
        if not isinstance(item, Layer) or item.casts_shadow:
            casting.append(quads[-1])
            casting_material.append(material[-1])
        offset += len(item.base if isinstance(item, Layer) else item.points)
    all_quads, all_material = np.vstack(quads), np.concatenate(material)
    return Model(
        base=np.concatenate(
            [mesh.source, *(layer.base for layer in layers), np.full(bound, -1)]
        ).astype(np.int32),
        height=np.concatenate(
            [np.zeros(count), *(layer.height for layer in layers), np.zeros(bound)]
        ).astype(np.float32),
        rest=np.vstack([no_rest, *(s.rest for s in surfaces)]),
        rest_normals=np.vstack([no_rest, *(s.normals for s in surfaces)]),
        head_share=np.concatenate(
            [np.zeros(attached, np.float32), *(s.head_share for s in surfaces)]
        ),
        coordinates=np.vstack(
            [
                _mesh_coordinates(mesh, person.lashes),
                *(layer.coordinates for layer in layers),
                *(s.surface.coordinates for s in surfaces),
            ]
        ),
        template=np.vstack(
            [
                _template(mesh),
                *(mesh.points[layer.base] for layer in layers),
                *(s.surface.points for s in surfaces),
            ]
        ).astype(np.float32),
        visible=np.concatenate(
            [
                mesh.visible[mesh.source],
                *(np.clip(1.1 * mesh.visible[layer.base], 0, 1) for layer in layers),
                np.full(bound, 0.8),
            ]
        ).astype(np.float32),
        triangles=triangles(all_quads),
        material=np.tile(all_material, 2),
        casting=triangles(np.vstack(casting)),
        casting_material=np.tile(np.concatenate(casting_material), 2),
    )


def _under_cloth(mesh: Mesh, layers: tuple[Layer, ...]) -> NDArray[np.bool_]:
    """Which fine vertices [N] lie well inside the border of the garment and are never seen."""
    hidden = np.zeros(len(mesh.points), bool)
    for layer in layers:
        if layer.material == Material.CLOTH:
            hidden[layer.base[layer.coordinates[:, 2] > 0.02]] = True
    return hidden


def _coarse_skin(mesh: Mesh) -> NDArray[np.int32]:
    """Quads of the unsubdivided skin over render vertices: fine enough for shadows."""
    # Subdivision makes four quads of each, whose first corners are the corners of the old one.
    corners = mesh.render_quads[:, 0].reshape(-1, 4)
    return corners[mesh.material[::4] == Material.SKIN]


def _template(mesh: Mesh) -> NDArray[np.float32]:
    """Template positions of the mesh's render vertices, eyes from their own centres."""
    template = mesh.points[mesh.source].copy()
    for eye, part in zip(mesh.eyes, ("left_eye", "right_eye"), strict=True):
        coarse = mesh.asset.template[np.unique(mesh.asset.faces[part])]
        on_eye = np.isin(mesh.source, eye)
        template[on_eye] = mesh.points[mesh.source[on_eye]] - eye_centre(coarse)
    return template


def _mesh_coordinates(mesh: Mesh, lashes: float) -> NDArray[np.float32]:
    """Atlas positions; of lashes a threshold that cuts them at their length in metres."""
    zeros = np.zeros(len(mesh.source), np.float32)
    coordinates = np.stack([mesh.atlas[:, 0], mesh.atlas[:, 1], zeros, zeros], 1)
    lash = np.unique(mesh.render_quads[mesh.material == Material.LASH])
    points = mesh.points[mesh.source[lash]]
    reach = mesh.tree.query(points)[0]
    is_lower = points[:, 2] < 0.7265
    beyond = (reach - lashes * np.where(is_lower, 0.35, 1)) / 0.0016
    coordinates[lash, 0], coordinates[lash, 1] = points[:, 0] * 22, 0
    coordinates[lash, 2] = np.clip(beyond, -0.2, 1.02)
    return coordinates
