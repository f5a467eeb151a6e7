"""Warp kernel that turns the depth buffer into colours: materials, light, shadow, tone."""

# ruff: noqa: UP018, SIM109, SIM114, RUF046 (see kernels.py)

import warp as wp

from preprocessing.synthetic.renderer.kernels import (
    CLOTH,
    DEPTH_SCALE,
    EYE,
    FRAME,
    HAIR,
    INDEX_BITS,
    LASH,
    MOUTH,
    SHEET,
    SKIN,
    TEETH,
    View,
    edge,
    strand,
)

wp.set_module_options({"enable_backward": False, "fast_math": True})


@wp.struct
class Look:
    """Colours (linear RGB) and light of a person; what changes by frame are the creases."""

    # Direction to the key light and its colour; light from behind.
    light: wp.vec3
    key: wp.vec3
    rim: wp.vec3
    rim_direction: wp.vec3
    # Environment: mean light and its slopes along x, y and z.
    ambient: wp.vec3
    ambient_x: wp.vec3
    ambient_y: wp.vec3
    ambient_z: wp.vec3
    iris: wp.vec3
    iris_inner: wp.vec3
    sclera: wp.vec3
    # Angular radii in the eye's own frame.
    iris_size: float
    pupil_size: float
    teeth: wp.vec3
    mouth: wp.vec3
    hair: wp.vec3
    hair_light: wp.vec3
    hair_shine: float
    frame: wp.vec3
    cloth: wp.vec3
    cloth_second: wp.vec3
    # 0 plain, 1 stripes, 2 checks, 3 blotches.
    pattern: int
    frequency: float
    skin_shine: float
    # Strength of the creases on the person's left and right: forehead, between the brows,
    # beside the mouth, at the outer corners of the eyes.
    crease_left: wp.vec4
    crease_right: wp.vec4


@wp.struct
class Surface:
    """How a point reflects light."""

    albedo: wp.vec3
    # How far light creeps around the edge of the lit side, by colour.
    wrap: wp.vec3
    gloss: float
    power: float


@wp.func
def texel(texture: wp.array2d(dtype=wp.vec4), u: float, v: float):  # type: ignore[no-untyped-def]
    """Bilinear look-up, clamped at the border."""
    h = texture.shape[0]
    w = texture.shape[1]
    x = u * float(w) - 0.5
    y = v * float(h) - 0.5
    x0 = int(wp.floor(x))
    y0 = int(wp.floor(y))
    fx = x - float(x0)
    fy = y - float(y0)
    xa = wp.clamp(x0, 0, w - 1)
    xb = wp.clamp(x0 + 1, 0, w - 1)
    ya = wp.clamp(y0, 0, h - 1)
    yb = wp.clamp(y0 + 1, 0, h - 1)
    low = texture[ya, xa] * (1.0 - fx) + texture[ya, xb] * fx
    high = texture[yb, xa] * (1.0 - fx) + texture[yb, xb] * fx
    return low * (1.0 - fy) + high * fy


@wp.func
def eye_albedo(look: Look, noise: wp.array2d(dtype=float), o: wp.vec3):  # type: ignore[no-untyped-def]
    """Iris, pupil and sclera from the direction `o` in the eye's frame; the pupil looks to -y."""
    d = wp.normalize(o)
    r = wp.sqrt(d[0] * d[0] + d[2] * d[2])
    if d[1] > 0.0:
        r = 2.0 - r
    k = r / look.iris_size
    fibre = strand(noise, wp.atan2(d[2], d[0]) * 0.9, k * 0.04)
    iris = look.iris * (0.6 + 0.8 * fibre)
    iris = wp.lerp(iris, look.iris_inner, wp.clamp(1.25 - 1.6 * k, 0.0, 0.8))
    iris = iris * (1.0 - 0.7 * wp.smoothstep(0.78, 1.0, k))
    iris = iris * wp.smoothstep(look.pupil_size - 0.06, look.pupil_size + 0.06, k)
    white = look.sclera * (1.0 - 0.25 * wp.smoothstep(0.55, 0.95, r))
    return wp.lerp(iris, white, wp.smoothstep(0.92, 1.06, k))


@wp.func
def cloth_albedo(look: Look, noise: wp.array2d(dtype=float), inside: float, o: wp.vec3):  # type: ignore[no-untyped-def]
    """Pattern of the garment at the template position `o`, `inside` metres from its border."""
    g = float(0.0)
    if look.pattern == 1:
        g = wp.smoothstep(-0.2, 0.2, wp.sin(o[2] * look.frequency))
    elif look.pattern == 2:
        g = 0.5 * wp.smoothstep(-0.2, 0.2, wp.sin(o[2] * look.frequency))
        g += 0.5 * wp.smoothstep(-0.2, 0.2, wp.sin(o[0] * look.frequency))
    elif look.pattern == 3:
        g = wp.smoothstep(0.45, 0.55, strand(noise, o[0] * 0.9, o[2] * 0.12))
    albedo = wp.lerp(look.cloth, look.cloth_second, g)
    if inside < 0.011:
        albedo = look.cloth * 0.72
    return albedo * (0.9 + 0.2 * strand(noise, o[0] * 3.0, o[2] * 0.4))


@wp.func
def surface_of(  # type: ignore[no-untyped-def]
    m: int,
    uv: wp.vec4,
    o: wp.vec3,
    look: Look,
    skin: wp.array2d(dtype=wp.vec4),
    creases: wp.array2d(dtype=wp.vec4),
    noise: wp.array2d(dtype=float),
):
    """Material at a point with texture coordinates `uv` and template position `o`."""
    s = Surface()
    s.albedo = wp.vec3(0.5, 0.5, 0.5)
    s.wrap = wp.vec3(0.1, 0.1, 0.1)
    s.gloss = 0.0
    s.power = 20.0
    if m == SKIN:
        t = texel(skin, uv[0], uv[1])
        c = texel(creases, uv[0], uv[1])
        w = look.crease_right
        if o[0] > 0.0:
            w = look.crease_left
        fold = wp.clamp(wp.dot(c, w), 0.0, 0.75)
        s.albedo = wp.cw_mul(
            wp.vec3(t[0], t[1], t[2]),
            wp.vec3(1.0 - 0.55 * fold, 1.0 - 0.75 * fold, 1.0 - 0.75 * fold),
        )
        s.wrap = wp.vec3(0.38, 0.2, 0.13)
        s.gloss = t[3] * look.skin_shine
        s.power = 22.0
    elif m == CLOTH:
        s.albedo = cloth_albedo(look, noise, uv[2], o)
    elif m == EYE:
        s.albedo = eye_albedo(look, noise, o)
        s.wrap = wp.vec3(0.25, 0.22, 0.2)
        s.gloss = 1.6
        s.power = 240.0
    elif m == TEETH:
        gap = wp.abs(wp.sin(wp.atan2(o[0], -(o[1] + 0.105)) * 8.0 + 1.5708))
        s.albedo = look.teeth * (0.7 + 0.3 * wp.smoothstep(0.0, 0.35, gap))
        s.wrap = wp.vec3(0.4, 0.4, 0.4)
        s.gloss = 0.4
        s.power = 60.0
    elif m == MOUTH:
        s.albedo = look.mouth
        s.gloss = 0.25
        s.power = 40.0
    elif m == LASH:
        s.albedo = wp.vec3(0.015, 0.012, 0.01)
    elif m == HAIR:
        g = strand(noise, uv[0], uv[1])
        s.albedo = wp.lerp(look.hair, look.hair_light, g) * (0.55 + 0.75 * g)
        s.wrap = wp.vec3(0.3, 0.3, 0.3)
    elif m == FRAME:
        s.albedo = look.frame
        s.gloss = 1.5
        s.power = 60.0
    return s


@wp.func
def lit_share(shadow: wp.array2d(dtype=wp.int64), at: wp.vec3):  # type: ignore[no-untyped-def]
    """Share of 3×3 look-ups of the shadow map in which the light reaches the point."""
    lit = float(0.0)
    z = wp.int64(at[2] * DEPTH_SCALE)
    for j in range(-1, 2):
        for i in range(-1, 2):
            x = int(at[0] + 1.3 * float(i))
            y = int(at[1] + 1.3 * float(j))
            if x < 0 or y < 0 or x >= shadow.shape[1] or y >= shadow.shape[0]:
                lit += 1.0
            elif (shadow[y, x] >> INDEX_BITS) <= z:
                lit += 1.0
    return lit / 9.0


@wp.func
def tone(c: wp.vec3):  # type: ignore[no-untyped-def]
    """Soft shoulder, then the sRGB curve, made of square roots."""
    r = wp.vec3(0.0, 0.0, 0.0)
    for k in range(3):
        v = wp.max(c[k], 0.0)
        a = wp.sqrt(v * 1.25 * (1.0 + v * 0.20) / (1.0 + v * 0.75))
        b = wp.sqrt(a)
        r[k] = wp.clamp(0.585122381 * a + 0.783140355 * b - 0.368262736 * wp.sqrt(b), 0.0, 1.0)
    return r


@wp.struct
class Scene:
    """Arrays of a frame: R render vertices, triangles and textures."""

    screen: wp.array(dtype=wp.vec3)
    points: wp.array(dtype=wp.vec3)
    normals: wp.array(dtype=wp.vec3)
    coordinates: wp.array(dtype=wp.vec4)
    origin: wp.array(dtype=wp.vec3)
    visible: wp.array(dtype=float)
    triangles: wp.array(dtype=wp.vec3i)
    material: wp.array(dtype=wp.int32)
    skin: wp.array2d(dtype=wp.vec4)
    creases: wp.array2d(dtype=wp.vec4)
    strands: wp.array2d(dtype=float)
    shadow: wp.array2d(dtype=wp.int64)


@wp.func
def colour_at(t: int, px: float, py: float, scene: Scene, view: View, look: Look):  # type: ignore[no-untyped-def]
    """Colour of triangle `t` at a sample, sRGB in [0, 1]."""
    f = scene.triangles[t]
    m = scene.material[t]
    a = scene.screen[f[0]]
    b = scene.screen[f[1]]
    c = scene.screen[f[2]]
    w0 = edge(b, c, px, py) * a[2]
    w1 = edge(c, a, px, py) * b[2]
    w2 = edge(a, b, px, py) * c[2]
    total = 1.0 / (w0 + w1 + w2)
    w0 = w0 * total
    w1 = w1 * total
    w2 = w2 * total
    p = scene.points[f[0]] * w0 + scene.points[f[1]] * w1 + scene.points[f[2]] * w2
    n = wp.normalize(scene.normals[f[0]] * w0 + scene.normals[f[1]] * w1 + scene.normals[f[2]] * w2)
    uv = scene.coordinates[f[0]] * w0 + scene.coordinates[f[1]] * w1 + scene.coordinates[f[2]] * w2
    o = scene.origin[f[0]] * w0 + scene.origin[f[1]] * w1 + scene.origin[f[2]] * w2
    ao = scene.visible[f[0]] * w0 + scene.visible[f[1]] * w1 + scene.visible[f[2]] * w2
    to_eye = wp.normalize(view.eye - p)
    if m == SHEET:
        m = HAIR
    if wp.dot(n, to_eye) < 0.0 and (m == HAIR or m == LASH):
        n = -n
    s = surface_of(m, uv, o, look, scene.skin, scene.creases, scene.strands)
    lit = lit_share(scene.shadow, wp.transform_point(view.light, p + n * 0.004))
    # Light bleeds red into the edge of a shadow on skin.
    shade3 = wp.vec3(lit, lit, lit)
    if m == SKIN:
        shade3 = wp.vec3(lit * (1.35 - 0.35 * lit), lit, lit)
    nl = wp.dot(n, look.light)
    diffuse = wp.vec3(0.0, 0.0, 0.0)
    for i in range(3):
        diffuse[i] = wp.max((nl + s.wrap[i]) / (1.0 + s.wrap[i]), 0.0)
    around = look.ambient + look.ambient_x * n[0] + look.ambient_y * n[1] + look.ambient_z * n[2]
    around = around * ao
    half = wp.normalize(look.light + to_eye)
    highlight = float(0.0)
    if m == HAIR:
        # A band of light across the strands instead of a round highlight.
        if look.hair_shine * lit > 0.0:
            along = wp.normalize(wp.vec3(0.0, 0.0, 1.0) - n * n[2])
            th = wp.dot(along, half)
            highlight = look.hair_shine * lit * wp.max(nl + 0.3, 0.0)
            highlight = highlight * wp.pow(wp.max(1.0 - th * th, 0.0), 40.0)
    elif s.gloss * lit > 0.0:
        highlight = s.gloss * wp.pow(wp.max(wp.dot(n, half), 0.0), s.power) * lit
    colour = wp.cw_mul(s.albedo, around + wp.cw_mul(wp.cw_mul(look.key, diffuse), shade3))
    colour += look.key * highlight
    behind = wp.dot(n, look.rim_direction)
    colour += wp.cw_mul(s.albedo, look.rim) * (wp.max(behind, 0.0) * ao)
    if m != HAIR:
        grazing = 1.0 - wp.max(wp.dot(n, to_eye), 0.0)
        grazing = grazing * grazing
        grazing = grazing * grazing
        colour += look.rim * (0.4 * grazing * ao * wp.max(behind + 0.3, 0.0))
    return tone(colour)


@wp.kernel
def shade(
    scene: Scene,
    view: View,
    look: Look,
    depth: wp.array2d(dtype=wp.int64),
    backdrop: wp.array2d(dtype=wp.vec3),
    k: int,
    image: wp.array3d(dtype=wp.uint8),
) -> None:
    """Average the colours of k×k samples of the depth buffer to pixels of 8 bits [H, W, 3].

    A pixel that shows nothing but skin, or nothing but cloth, is shaded at every other sample.
    """
    y, x = wp.tid()
    kind = int(-1)
    uniform = bool(True)
    for j in range(k):
        for i in range(k):
            key = depth[y * k + j, x * k + i]
            m = int(-2)
            if key != wp.int64(0):
                m = scene.material[int(key & wp.int64(0x7FFFFFFF))]
            if m != SKIN and m != CLOTH:
                uniform = False
            if kind >= 0 and m != kind:
                uniform = False
            kind = m
    total = wp.vec3(0.0, 0.0, 0.0)
    count = float(0.0)
    for j in range(k):
        for i in range(k):
            if not uniform or (i + j) % 2 == 0:
                key = depth[y * k + j, x * k + i]
                count += 1.0
                if key == wp.int64(0):
                    total += backdrop[y, x]
                else:
                    total += colour_at(
                        int(key & wp.int64(0x7FFFFFFF)),
                        float(x * k + i) + 0.5,
                        float(y * k + j) + 0.5,
                        scene,
                        view,
                        look,
                    )
    total = total * (255.0 / count)
    for c in range(3):
        image[y, x, c] = wp.uint8(total[c] + 0.5)
