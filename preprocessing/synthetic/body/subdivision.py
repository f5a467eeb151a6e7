"""One step of Catmull-Clark subdivision as a sparse matrix."""

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray


def catmull_clark(
    faces: NDArray[np.integer], vertices: int
) -> tuple[sp.csr_matrix, NDArray[np.int64]]:
    """Return the matrix from coarse to fine vertices and the fine quads [4 F, 4].

    Fine vertices are the used coarse ones, then one on each edge, then one in each face. Open
    edges keep their line.

    Args:
        faces: quads [F, 4].
        vertices: number of coarse vertices.
    """
    count = len(faces)
    corner, following = faces.ravel(), np.roll(faces, -1, 1).ravel()
    edges, edge_of, uses = np.unique(
        np.sort(np.stack([corner, following], 1), 1),
        axis=0,
        return_inverse=True,
        return_counts=True,
    )
    edge_of = edge_of.reshape(-1)
    face_of = np.repeat(np.arange(count), 4)

    def matrix(
        values: float,
        rows: NDArray[np.integer],
        columns: NDArray[np.integer],
        shape: tuple[int, int],
    ) -> sp.csr_matrix:
        return sp.csr_matrix((np.full(len(rows), values), (rows, columns)), shape)

    ends = np.repeat(np.arange(len(edges)), 2)
    to_face = matrix(0.25, face_of, corner, (count, vertices))
    middle = matrix(0.5, ends, edges.ravel(), (len(edges), vertices))
    edge_faces = matrix(1, edge_of, face_of, (len(edges), count))
    inner = uses == 2
    to_edge = (
        sp.diags(np.where(inner, 0.5, 1.0)) @ middle
        + sp.diags(np.where(inner, 0.25, 0.0)) @ edge_faces @ to_face
    )
    vertex_faces = matrix(1, corner, face_of, (vertices, count))
    vertex_edges = matrix(1, edges.ravel(), ends, (vertices, len(edges)))

    def degree(incidence: sp.spmatrix) -> NDArray[np.float64]:
        return np.maximum(np.asarray(incidence.sum(1)).ravel(), 1)

    n_faces, n_edges = degree(vertex_faces), degree(vertex_edges)
    identity = sp.identity(vertices)
    smoothed = (
        sp.diags(1 / n_faces**2) @ vertex_faces @ to_face
        + sp.diags(2 / (n_edges * n_faces)) @ vertex_edges @ middle
        + sp.diags((n_faces - 3) / n_faces) @ identity
    )
    open_edges = vertex_edges @ sp.diags((~inner).astype(float))
    along_border = 0.5 * identity + sp.diags(0.5 / degree(open_edges)) @ open_edges @ middle
    on_border = np.zeros(vertices)
    on_border[edges[~inner].ravel()] = 1
    to_vertex = sp.diags(1 - on_border) @ smoothed + sp.diags(on_border) @ along_border
    used = np.unique(faces)
    stacked = sp.vstack([to_vertex.tocsr()[used], to_edge, to_face]).tocsr()

    new_index = np.full(vertices, -1)
    new_index[used] = np.arange(len(used))
    corner_index = new_index[faces]
    edge_index = edge_of.reshape(count, 4) + len(used)
    centre = np.arange(count) + len(used) + len(edges)
    quads = np.stack(
        [
            np.stack([corner_index[:, k], edge_index[:, k], centre, edge_index[:, k - 1]], 1)
            for k in range(4)
        ],
        1,
    )
    return stacked, quads.reshape(-1, 4)


def subdivide_corners(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Split values at quad corners [F, 4, D] bilinearly to [4 F, 4, D], as `catmull_clark`."""
    edge = (values + np.roll(values, -1, 1)) / 2
    middle = values.mean(1)
    split = [np.stack([values[:, k], edge[:, k], middle, edge[:, k - 1]], 1) for k in range(4)]
    return np.stack(split, 1).reshape(-1, 4, values.shape[-1])
