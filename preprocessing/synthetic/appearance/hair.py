"""Hair and beards: shells over the scalp, hanging sheets, buns and tails."""

import numpy as np
from numpy.typing import NDArray

from preprocessing.synthetic.appearance.fields import Floats, periodic_noise, smooth
from preprocessing.synthetic.appearance.geometry import (
    Layer,
    Surface,
    ellipsoid,
    grid_quads,
    head_radius,
)
from preprocessing.synthetic.appearance.hairline import beard_field, hairline
from preprocessing.synthetic.body.mesh import AXIS, Mesh
from preprocessing.synthetic.renderer.kernels import Material

#: How often men and women wear each style.
STYLES = {
    "bald": (0.06, 0.005),
    "buzz": (0.13, 0.02),
    "receding": (0.10, 0.0),
    "short": (0.22, 0.06),
    "side": (0.17, 0.06),
    "fringe": (0.10, 0.06),
    "curly": (0.08, 0.10),
    "afro": (0.04, 0.03),
    "bob": (0.02, 0.22),
    "long": (0.03, 0.22),
    "wavy": (0.02, 0.20),
    "bun": (0.02, 0.10),
    "ponytail": (0.0, 0.10),
}
BEARDS = {
    "none": 0.42,
    "stubble": 0.22,
    "goatee": 0.08,
    "moustache": 0.06,
    "short": 0.12,
    "full": 0.1,
}
# Blur of the strand texture across and along the strands; straight hair without an entry.
_STRANDS = {"curly": (2.2, 3.0), "afro": (1.8, 1.8), "buzz": (0.8, 1.2), "wavy": (0.9, 26.0)}
_STRAIGHT = (0.7, 30.0)
# Width in metres of the hairline's soft edge.
_SOFTNESS = {"buzz": 0.020, "short": 0.018, "receding": 0.024, "fringe": 0.012}
_PARTED = ("side", "bob", "long", "wavy")
_COMBED_BACK = ("bun", "ponytail", "receding")
_CROWN = np.array([0, 0.005, 0.845])
_BACK = np.array([0, 0.095, 0.79])


def strand_texture(rng: np.random.Generator, style: str) -> NDArray[np.float32]:
    """Periodic texture [512, 512] in [0, 1] of single strands or curls."""
    across, along = _STRANDS.get(style, _STRAIGHT)
    mixed = periodic_noise(rng, across, along) + 0.28 * periodic_noise(rng, 5, 60)
    known = np.sort(mixed[::8, ::8].ravel())
    return np.interp(mixed, known, np.linspace(0, 1, len(known))).astype(np.float32)


def grow_hair(
    mesh: Mesh, style: str, rng: np.random.Generator
) -> tuple[list[Layer], list[Surface]]:
    """Return the layers on the scalp and the free surfaces of a hair style."""
    if style == "bald":
        return [], []
    inside = _inside_hairline(mesh, style, rng)
    lumps = _lumps(mesh, rng)
    soft = _SOFTNESS.get(style, 0.018)
    centred = style in ("long", "wavy") and rng.random() < 0.5
    part = 0.0 if centred else float(rng.choice([-1, 1]) * rng.uniform(0.012, 0.035))
    z = mesh.points[:, 2]
    if style == "buzz":
        return _shells(mesh, inside / soft, 0 * z + 0.004, 3, (3, 12)), []
    if style in ("short", "side", "fringe", "receding"):
        volume = rng.uniform(0.010, 0.020) * (0.6 if style == "receding" else 1)
        height = volume * smooth(-0.002, 0.035, inside) * (1 + 0.25 * lumps) + 0.0025
        top = rng.uniform(0, 0.018) * smooth(0.80, 0.84, z) * (style in ("short", "side"))
        return _shells(mesh, inside / soft, height + top, 7, (1, 2.2), style, part), []
    if style in ("curly", "afro"):
        is_afro = style == "afro"
        volume = rng.uniform(0.035, 0.065) if is_afro else rng.uniform(0.020, 0.034)
        height = volume * smooth(-0.004, 0.05, inside) * (1 + 0.16 * lumps) + 0.003
        return _shells(mesh, inside / soft, height, 13 if is_afro else 10, (3, 6)), []
    combed = style in _COMBED_BACK
    volume = rng.uniform(0.008, 0.018) * (0.6 if combed else 1)
    height = volume * smooth(-0.002, 0.05 if combed else 0.04, inside)
    height = height + (0.0012 if combed else 0.003)
    groove = np.exp(-(((mesh.points[:, 0] - part) / 0.004) ** 2)) * (mesh.points[:, 1] < 0.03)
    if style not in _PARTED:
        groove = 0 * groove
    depth = inside / soft * (1 - 0.4 * groove * smooth(0.78, 0.80, z))
    layers = _shells(mesh, depth, height * (1 - 0.75 * groove), 6, (1, 2.2), style, part)
    return layers, _hanging(style, volume, rng)


def grow_beard(mesh: Mesh, kind: str, rng: np.random.Generator) -> list[Layer]:
    """Return the layers of a beard that is longer than stubble."""
    if kind in ("none", "stubble"):
        return []
    density = beard_field(mesh.points, kind) * (1 - mesh.on_vertices(mesh.masks["lips"]))
    length = rng.uniform(0.008, 0.020) if kind == "full" else rng.uniform(0.003, 0.006)
    lumps = 1 + 0.3 * _lumps(mesh, rng) * (kind == "full")
    return _shells(mesh, 1.6 * density - 0.5, 0.001 + density * length * lumps, 5, (3, 10))


def _lumps(mesh: Mesh, rng: np.random.Generator) -> Floats:
    wide = np.sin(mesh.points @ rng.normal(0, 60, 3) + rng.uniform(0, 6))
    return np.asarray(0.5 * wide + 0.5 * np.sin(mesh.points @ rng.normal(0, 110, 3)))


def _inside_hairline(mesh: Mesh, style: str, rng: np.random.Generator) -> Floats:
    """How far each fine vertex lies inside the hairline, in metres; ears are outside."""
    x, y, z = mesh.points.T
    bend = rng.normal(0, [0.004, 0.003, 0.003, 0.003, 0.004, 0, 0, 0, 0.006])
    shift = np.full(len(z), rng.normal(0.001, 0.003))
    front = smooth(np.radians(75), np.radians(35), np.abs(mesh.azimuth))
    if style == "fringe":
        shift = shift - front * rng.uniform(0.018, 0.034)
    if style == "side":
        shift = shift - front * np.clip(0.014 + rng.choice([-1, 1]) * x * 0.35, 0, 0.05) * 0.6
    on_ear = smooth(0.072, 0.078, np.abs(x)) * (np.abs(z - 0.712) < 0.032)
    on_ear = on_ear * (np.abs(y + 0.035) < 0.035)
    inside = np.where(z > 0.63, z - hairline(mesh.azimuth, bend) - shift, -1.0) - 0.2 * on_ear
    if style == "receding":
        inside = inside - 0.07 * smooth(-0.01, -0.09, y) * smooth(0.74, 0.80, z)
    return np.asarray(inside)


def _shells(
    mesh: Mesh,
    inside: Floats,
    height: Floats,
    count: int,
    scale: tuple[float, float],
    style: str = "",
    part: float = 0.0,
) -> list[Layer]:
    """Layers over the skin where hair grows; strands thin out towards the outer ones.

    Args:
        mesh: the shared mesh.
        inside: distance inside the hairline over the width of its soft edge [N].
        height: of the outermost layer above the skin in metres [N].
        count: number of layers.
        scale: repeats of the strand texture around the head, and in each metre along a strand.
        style: decides which way the hair is combed.
        part: x of the parting in metres.
    """
    head = (mesh.material == Material.SKIN) & (mesh.points[mesh.quads][..., 2].min(1) > 0.60)
    quads = mesh.quads[head]
    quads = quads[(inside[quads] > -0.45).any(1)]
    pole, axis = (_BACK, (0, 0.92, 0.39)) if style in _COMBED_BACK else (_CROWN, (0, 0, 1.0))
    from_pole = mesh.points - pole
    around = np.arctan2(from_pole[:, 0], from_pole @ np.cross([1.0, 0, 0], axis))[quads]
    # Corners beyond the seam of the angle go once around.
    extreme = around[np.arange(len(quads)), np.abs(around).argmax(1)][:, None]
    crossed = np.abs(around - extreme) > np.pi
    around = np.where(crossed, around + np.sign(extreme) * 2 * np.pi, around)
    key = np.stack([quads.ravel(), np.round(around.ravel() * 1e4)], 1).astype(np.int64)
    _, first, inverse = np.unique(key, axis=0, return_index=True, return_inverse=True)
    base, angle = quads.ravel()[first], around.ravel()[first]
    u = angle / (2 * np.pi) * scale[0]
    v = np.linalg.norm(from_pole[base], axis=1) * scale[1]
    if style in _PARTED:
        x, y = mesh.points[base, 0], mesh.points[base, 1]
        u, v = y * 1.9 + np.where(x > part, 0.37, 0), np.abs(x - part) * scale[1]
    layers = []
    for number in range(count):
        share = (number + 1) / count
        coordinates = np.stack([u, v, inside[base], np.full(len(base), share)], 1)
        layers.append(
            Layer(
                Material.HAIR,
                base,
                (height[base] * share).astype(np.float32),
                coordinates.astype(np.float32),
                inverse.reshape(-1, 4),
                casts_shadow=number % 3 == 0,
            )
        )
    return layers


def _hanging(style: str, volume: float, rng: np.random.Generator) -> list[Surface]:
    """What hangs from the head or is tied together."""
    if style == "bun":
        centre = np.array([0, rng.uniform(0.05, 0.085), rng.uniform(0.79, 0.86)])
        return [ellipsoid(centre, np.array([0.042, 0.036, 0.036]) * rng.uniform(0.85, 1.25))]
    if style == "ponytail":
        knot = ellipsoid(np.array([0, 0.095, 0.775]), np.array([0.026, 0.03, 0.026]))
        tail = np.array([0.05 * rng.choice([-1, 1]), 0.10, 0.66])
        return [knot, ellipsoid(tail, np.array([0.045, 0.035, 0.13]))]
    lengths = {"bob": (0.60, 0.66), "long": (0.44, 0.54), "wavy": (0.46, 0.58)}
    end = rng.uniform(*lengths[style])
    opening = np.radians(rng.uniform(50, 72))
    wave = rng.uniform(0.005, 0.012) if style == "wavy" else 0.0015
    return _curtain(end, opening, volume, wave, rng)


def _curtain(
    end: float, opening: float, volume: float, wave: float, rng: np.random.Generator
) -> list[Surface]:
    """Sheets along the sides and the back of the head that fall straight below it to `end`."""
    rows, columns = 24, 49
    z = np.linspace(0.835, end, rows)
    gap = np.interp(
        z,
        [0.66, 0.72, 0.765, 0.79, 0.81, 0.835],
        opening * np.array([1, 1, 0.92, 0.70, 0.40, 0.12]),
    )[:, None]
    azimuth = gap + np.linspace(0, 1, columns) * (2 * np.pi - 2 * gap)
    radius = head_radius(np.maximum(z, 0.695)[:, None], azimuth)
    below = np.clip(0.69 - z, 0, 1)[:, None]
    flare, phase = rng.uniform(-0.06, 0.22), rng.uniform(0, 6.28)
    tip = smooth(end + 0.07, end, z)[:, None]
    inner = np.minimum(azimuth - gap, 2 * np.pi - gap - azimuth)
    sheets = []
    for number in range(6):
        share = number / 5
        away = radius + volume * (0.5 + 0.5 * share) + 0.004 + below * flare
        away = away + 0.012 * (share - 0.5) * smooth(0, 0.1, below)
        swing = np.sin(z[:, None] * 90 + phase + 2 * np.sin(azimuth * 3))
        away = away + wave * swing * smooth(0, 0.06, below + 0.03)
        points = np.stack(
            [
                AXIS[0] + away * np.sin(azimuth),
                AXIS[1] - away * np.cos(azimuth),
                np.broadcast_to(z[:, None], azimuth.shape),
            ],
            -1,
        )
        # Strands end at different heights, and fray at the front edge.
        threshold = np.maximum(0.05 + 0.12 * number, 1.02 * tip - 0.05)
        threshold = np.maximum(threshold, 1.02 - smooth(-0.02, 0.14, inner))
        coordinates = np.stack(
            [
                azimuth / (2 * np.pi) + 0.013 * number,
                np.broadcast_to(z[:, None] * 2.2, azimuth.shape),
                threshold,
                np.zeros_like(azimuth),
            ],
            -1,
        )
        sheets.append(
            Surface(
                Material.SHEET,
                points.reshape(-1, 3),
                coordinates.reshape(-1, 4).astype(np.float32),
                grid_quads(rows, columns),
            )
        )
    return sheets
