"""Warp kernels that place vertices and rasterise triangles into a depth buffer."""

# Warp compiles these functions: a variable is what float(0.0) declares, and `in` is not known.
# ruff: noqa: UP018, SIM109

from enum import IntEnum

import warp as wp

from preprocessing.synthetic.renderer import device as _device  # noqa: F401  (sets the kernel cache)

wp.set_module_options({"enable_backward": False, "fast_math": True})


class Material(IntEnum):
    """What a triangle is made of; kernels compare with the numbers below."""

    SKIN = 0
    CLOTH = 1
    EYE = 2
    TEETH = 3
    MOUTH = 4
    LASH = 5
    # Shells of hair over the skin, and free sheets of hair that show both sides.
    HAIR = 6
    SHEET = 7
    FRAME = 8


SKIN = wp.constant(0)
CLOTH = wp.constant(1)
EYE = wp.constant(2)
TEETH = wp.constant(3)
MOUTH = wp.constant(4)
LASH = wp.constant(5)
HAIR = wp.constant(6)
SHEET = wp.constant(7)
FRAME = wp.constant(8)

# A depth-buffer entry is the depth in 1e-8 above the index of the triangle.
DEPTH_SCALE = wp.constant(1.0e8)
INDEX_BITS = wp.constant(wp.int64(31))


@wp.kernel
def subdivide(
    start: wp.array(dtype=wp.int32),
    column: wp.array(dtype=wp.int32),
    weight: wp.array(dtype=float),
    coarse: wp.array(dtype=wp.vec3),
    fine: wp.array(dtype=wp.vec3),
) -> None:
    """Multiply the coarse vertices by a sparse matrix of rows `start`."""
    i = wp.tid()
    total = wp.vec3(0.0, 0.0, 0.0)
    for k in range(start[i], start[i + 1]):
        total += coarse[column[k]] * weight[k]
    fine[i] = total


@wp.kernel
def vertex_normals(
    start: wp.array(dtype=wp.int32),
    incident: wp.array(dtype=wp.int32),
    quads: wp.array(dtype=wp.vec4i),
    points: wp.array(dtype=wp.vec3),
    normals: wp.array(dtype=wp.vec3),
) -> None:
    """Average the area-weighted normals of the quads around each vertex."""
    i = wp.tid()
    total = wp.vec3(0.0, 0.0, 0.0)
    for k in range(start[i], start[i + 1]):
        q = quads[incident[k]]
        total += wp.cross(points[q[2]] - points[q[0]], points[q[3]] - points[q[1]])
    normals[i] = wp.normalize(total)


@wp.struct
class View:
    """Camera and light of a frame."""

    eye: wp.vec3
    scale: float
    shift_x: float
    shift_y: float
    light: wp.mat44
    head: wp.mat44
    torso: wp.mat44


@wp.kernel
def place(
    base: wp.array(dtype=wp.int32),
    height: wp.array(dtype=float),
    rest: wp.array(dtype=wp.vec3),
    rest_normal: wp.array(dtype=wp.vec3),
    head_share: wp.array(dtype=float),
    fine: wp.array(dtype=wp.vec3),
    fine_normal: wp.array(dtype=wp.vec3),
    view: View,
    points: wp.array(dtype=wp.vec3),
    normals: wp.array(dtype=wp.vec3),
    screen: wp.array(dtype=wp.vec3),
    shadow: wp.array(dtype=wp.vec3),
) -> None:
    """Put every rendered vertex in the world, on the screen and in the shadow map.

    A vertex sits `height` above the fine vertex `base`, or where that is -1, is carried from its
    rest position by the head and the torso.
    """
    i = wp.tid()
    b = base[i]
    if b >= 0:
        n = fine_normal[b]
        p = fine[b] + n * height[i]
    else:
        s = head_share[i]
        by_head = wp.transform_point(view.head, rest[i])
        by_torso = wp.transform_point(view.torso, rest[i])
        p = by_head * s + by_torso * (1.0 - s)
        n = wp.transform_vector(view.head, rest_normal[i])
    points[i] = p
    normals[i] = n
    d = p - view.eye
    k = view.scale / d[1]
    screen[i] = wp.vec3(view.shift_x + d[0] * k, view.shift_y - d[2] * k, 1.0 / d[1])
    shadow[i] = wp.transform_point(view.light, p)


@wp.func
def edge(a: wp.vec3, b: wp.vec3, x: float, y: float):  # type: ignore[no-untyped-def]
    """Twice the signed area of the triangle (a, b, (x, y))."""
    return (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])


@wp.func
def strand(noise: wp.array2d(dtype=float), u: float, v: float):  # type: ignore[no-untyped-def]
    """Bilinear look-up in a periodic square texture whose side is a power of two."""
    side = noise.shape[0]
    x = u * float(side)
    y = v * float(side)
    x0 = int(wp.floor(x))
    y0 = int(wp.floor(y))
    fx = x - float(x0)
    fy = y - float(y0)
    xa = x0 & (side - 1)
    xb = (x0 + 1) & (side - 1)
    ya = y0 & (side - 1)
    yb = (y0 + 1) & (side - 1)
    low = noise[ya, xa] * (1.0 - fx) + noise[ya, xb] * fx
    high = noise[yb, xa] * (1.0 - fx) + noise[yb, xb] * fx
    return low * (1.0 - fy) + high * fy


@wp.func
def is_open(m: int, uv: wp.vec4, noise: wp.array2d(dtype=float)):  # type: ignore[no-untyped-def]
    """Whether a partly transparent material has a gap at these coordinates.

    Cloth: the third coordinate is the distance inside its border. Hair shells: the third is how far
    inside the hairline (0 to 1 over its soft edge), the fourth the layer (0 inner, 1 outer).
    Lashes and sheets: the third is the threshold.
    """
    if m == CLOTH:
        return uv[2] < 0.0
    if m == HAIR:
        f = uv[3]
        full = 1.06 - 0.68 * f * wp.sqrt(f)
        if uv[2] < 2.0:
            # Every strand has its own root, so the hairline is ragged and not the mesh's.
            jitter = strand(noise, uv[0] * 3.1, 0.21 + uv[1] * 0.13) - 0.5
            root = uv[2] + 0.9 * jitter * (1.0 - wp.clamp(uv[2] * 0.5, 0.0, 1.0))
            if root <= 0.0:
                return True
            density = wp.smoothstep(0.0, 1.0, root)
            full = full * density * (1.0 - f + f * density * density)
        return strand(noise, uv[0], uv[1]) < 1.02 - full
    return strand(noise, uv[0], uv[1]) < uv[2]


@wp.kernel
def rasterise(
    screen: wp.array(dtype=wp.vec3),
    coordinates: wp.array(dtype=wp.vec4),
    triangles: wp.array(dtype=wp.vec3i),
    material: wp.array(dtype=wp.int32),
    noise: wp.array2d(dtype=float),
    both_sides: int,
    depth: wp.array2d(dtype=wp.int64),
) -> None:
    """Write the nearest triangle of each sample to the depth buffer [H, W].

    Args:
        screen: x and y in samples, and a depth that is linear on the screen.
        coordinates: texture coordinates, see `is_open`.
        triangles: vertex indices.
        material: of each triangle.
        noise: strand texture.
        both_sides: 1 draws triangles seen from behind too.
        depth: depth buffer; 0 is empty.
    """
    t = wp.tid()
    f = triangles[t]
    a = screen[f[0]]
    b = screen[f[1]]
    c = screen[f[2]]
    area = edge(a, b, c[0], c[1])
    m = material[t]
    if area == 0.0:
        return
    if area > 0.0 and both_sides == 0 and m != SHEET and m != LASH:
        return
    x0 = wp.max(0, int(wp.ceil(wp.min(wp.min(a[0], b[0]), c[0]) - 0.5)))
    x1 = wp.min(depth.shape[1] - 1, int(wp.floor(wp.max(wp.max(a[0], b[0]), c[0]) - 0.5)))
    y0 = wp.max(0, int(wp.ceil(wp.min(wp.min(a[1], b[1]), c[1]) - 0.5)))
    y1 = wp.min(depth.shape[0] - 1, int(wp.floor(wp.max(wp.max(a[1], b[1]), c[1]) - 0.5)))
    inverse = 1.0 / area
    for y in range(y0, y1 + 1):
        py = float(y) + 0.5
        for x in range(x0, x1 + 1):
            px = float(x) + 0.5
            w0 = edge(b, c, px, py) * inverse
            w1 = edge(c, a, px, py) * inverse
            w2 = 1.0 - w0 - w1
            if w0 >= 0.0 and w1 >= 0.0 and w2 >= 0.0:
                z = w0 * a[2] + w1 * b[2] + w2 * c[2]
                key = (wp.int64(z * DEPTH_SCALE) << INDEX_BITS) | wp.int64(t)
                if key > depth[y, x]:
                    solid = bool(True)
                    if m == HAIR or m == SHEET or m == LASH or m == CLOTH:
                        uv = (
                            coordinates[f[0]] * w0 + coordinates[f[1]] * w1 + coordinates[f[2]] * w2
                        )
                        solid = not is_open(m, uv, noise)
                    if solid:
                        wp.atomic_max(depth, y, x, key)


@wp.kernel
def occlusion(
    mesh: wp.uint64,
    points: wp.array(dtype=wp.vec3),
    normals: wp.array(dtype=wp.vec3),
    directions: wp.array(dtype=wp.vec3),
    reach: float,
    visible: wp.array(dtype=float),
) -> None:
    """Share of the hemisphere above each point that no surface within `reach` metres covers."""
    i = wp.tid()
    n = normals[i]
    total = float(0.0)
    seen = float(0.0)
    for k in range(directions.shape[0]):
        d = directions[k]
        c = wp.dot(d, n)
        if c < 0.0:
            d = -d
            c = -c
        total += c
        hit = wp.mesh_query_ray(mesh, points[i] + n * 0.0006, d, reach)
        if hit.result:
            seen += c * (hit.t / reach)
        else:
            seen += c
    visible[i] = seen / total
