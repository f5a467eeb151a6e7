"""Geometry that is added to the mesh: layers over the skin and free surfaces bound to it."""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from preprocessing.synthetic.appearance.fields import Floats, smooth
from preprocessing.synthetic.body.mesh import AXIS, Mesh, load_mesh
from preprocessing.synthetic.renderer.kernels import Material


@dataclass(frozen=True)
class Layer:
    """A copy of part of the skin, lifted along its normals."""

    material: Material
    # Fine vertex under each of the layer's vertices [n], and the height above it in metres [n].
    base: NDArray[np.int64]
    height: NDArray[np.float32]
    # Coordinates [n, 4] as `kernels.is_open` reads them.
    coordinates: NDArray[np.float32]
    quads: NDArray[np.integer]
    casts_shadow: bool = True


@dataclass(frozen=True)
class Surface:
    """A surface of its own in template space, such as hanging hair or glasses."""

    material: Material
    points: NDArray[np.float64]
    coordinates: NDArray[np.float32]
    quads: NDArray[np.integer]


@dataclass(frozen=True)
class Bound:
    """A surface that follows a person's shape."""

    surface: Surface
    rest: NDArray[np.float32]
    normals: NDArray[np.float32]
    # How far each point follows the head; the rest follows the torso.
    head_share: NDArray[np.float32]


def bind(surface: Surface, mesh: Mesh, person: Floats) -> Bound:
    """Move a surface from the template to a person by the change of the nearest skin.

    Args:
        surface: in template space.
        mesh: the shared mesh.
        person: the person's fine vertices at rest [N, 3].
    """
    distance, nearest = mesh.tree.query(surface.points, k=12)
    weight = 1 / (distance + 0.004) ** 2
    weight /= weight.sum(1, keepdims=True)
    rows = np.repeat(np.arange(len(surface.points)), 12)
    follow = sp.csr_matrix(
        (weight.ravel(), (rows, mesh.skin[nearest].ravel())),
        (len(surface.points), len(mesh.points)),
    )
    rest = surface.points + follow @ (person - mesh.points)
    normals = _normals(rest, surface.quads)
    if surface.material == Material.SHEET:
        outward = rest - np.array([0, -0.03, 0.70])
        normals *= np.where((normals * outward).sum(1, keepdims=True) < 0, -1, 1)
    return Bound(
        surface,
        rest.astype(np.float32),
        normals.astype(np.float32),
        smooth(0.48, 0.66, surface.points[:, 2]).astype(np.float32),
    )


def grid_quads(rows: int, columns: int) -> NDArray[np.int64]:
    """Quads of a grid of vertices."""
    i = np.arange(rows * columns).reshape(rows, columns)
    return np.stack([i[:-1, :-1], i[:-1, 1:], i[1:, 1:], i[1:, :-1]], -1).reshape(-1, 4)


def ellipsoid(centre: Floats, radii: Floats, rows: int = 14, columns: int = 28) -> Surface:
    """A bun or a tail of hair."""
    polar, around = np.meshgrid(
        np.linspace(0, np.pi, rows), np.linspace(0, 2 * np.pi, columns), indexing="ij"
    )
    direction = np.stack(
        [np.sin(polar) * np.sin(around), -np.sin(polar) * np.cos(around), np.cos(polar)], -1
    ).reshape(-1, 3)
    flat = np.zeros(around.size)
    coordinates = np.stack([around.ravel() / (2 * np.pi), polar.ravel() * 0.08, flat, flat], 1)
    return Surface(
        Material.SHEET,
        centre + direction * radii,
        coordinates.astype(np.float32),
        grid_quads(rows, columns),
    )


def tube(path: Floats, radius: float, closed: bool = False, sides: int = 6) -> Surface:
    """A wire along a path [n, 3]."""
    ahead = np.roll(path, -1, 0) - np.roll(path, 1, 0) if closed else np.gradient(path, axis=0)
    ahead = ahead / np.linalg.norm(ahead, axis=1, keepdims=True)
    across = np.cross(ahead, [0, 1, 0.01])
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    other = np.cross(ahead, across)
    angle = np.linspace(0, 2 * np.pi, sides + 1)[None, :, None]
    points = path[:, None] + radius * (
        np.cos(angle) * across[:, None] + np.sin(angle) * other[:, None]
    )
    if closed:
        points = np.concatenate([points, points[:1]])
    flat = points.reshape(-1, 3)
    return Surface(
        Material.FRAME,
        flat,
        np.zeros((len(flat), 4), np.float32),
        grid_quads(len(points), sides + 1),
    )


def head_radius(z: Floats, azimuth: Floats) -> Floats:
    """Distance in metres of the head's surface from its axis at heights and angles."""
    column = (azimuth % (2 * np.pi)) / (2 * np.pi) * 64 + 4
    row = (z - 0.68) / 0.17 * 34
    return np.asarray(
        cv2.remap(
            _radius_table(),
            column.astype(np.float32),
            np.broadcast_to(row, column.shape).astype(np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
    )


@cache
def _radius_table() -> NDArray[np.float32]:
    mesh = load_mesh()
    points = mesh.points[mesh.skin]
    offset = points[:, :2] - AXIS
    radius = np.linalg.norm(offset, axis=1)
    angle = np.arctan2(offset[:, 0], -offset[:, 1])
    table = np.full((35, 64), np.nan)
    for i, z in enumerate(np.linspace(0.68, 0.85, 35)):
        for j, azimuth in enumerate(np.linspace(0, 2 * np.pi, 64, endpoint=False)):
            apart = np.abs((angle - azimuth + np.pi) % (2 * np.pi) - np.pi)
            near = (np.abs(points[:, 2] - z) < 0.012) & (apart < 0.16)
            if near.any():
                table[i, j] = np.percentile(radius[near], 60)
    table = np.nan_to_num(table, nan=float(np.nanmean(table))).astype(np.float32)
    padded = np.pad(table, ((0, 0), (4, 4)), mode="wrap")
    return np.asarray(
        cv2.GaussianBlur(padded, (0, 0), 1.2, borderType=cv2.BORDER_REPLICATE), np.float32
    )


def _normals(points: Floats, quads: NDArray[np.integer]) -> Floats:
    corner = points[quads]
    crossed = np.cross(corner[:, 2] - corner[:, 0], corner[:, 3] - corner[:, 1])
    total = np.zeros_like(points)
    for k in range(4):
        np.add.at(total, quads[:, k], crossed)
    return np.asarray(total / (np.linalg.norm(total, axis=1, keepdims=True) + 1e-12))
