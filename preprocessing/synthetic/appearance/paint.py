"""Skin texture of a person: tone, blush, freckles, lips, brows, stubble, creases."""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from preprocessing.synthetic.appearance.fields import Floats, linear_rgb, smooth, smooth_noise
from preprocessing.synthetic.appearance.hairline import beard_field, hairline
from preprocessing.synthetic.body.mesh import ATLAS_SHAPE, AXIS, Mesh, load_mesh

LIPSTICKS = linear_rgb(
    [(190, 70, 80), (150, 30, 45), (205, 110, 105), (140, 60, 80), (190, 90, 60)]
)
EYE_SHADOWS = linear_rgb([(160, 110, 120), (110, 120, 150), (120, 95, 80), (90, 80, 90)])


@dataclass(frozen=True)
class Complexion:
    """What decides a face's colours (linear RGB)."""

    skin: NDArray[np.float32]
    # 0 the lightest, 1 the darkest skin.
    darkness: float
    hair: NDArray[np.float32]
    is_male: bool
    # 0 smooth, 1 fully wrinkled.
    wrinkles: float
    hair_style: str
    beard: str


def _bump(points: Floats, x: float, z: float, width: float, height: float) -> Floats:
    """Soft spot on both sides of the front of the face, 1 in its centre."""
    on_face = smooth(-0.02, -0.08, points[..., 1]) * smooth(0.58, 0.62, points[..., 2])
    distance = ((np.abs(points[..., 0]) - x) / width) ** 2 + ((points[..., 2] - z) / height) ** 2
    return np.asarray(np.exp(-distance) * on_face)


def paint(look: Complexion, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the texture [H, W, 4]: linear RGB and gloss, all in [0, 1]."""
    mesh = load_mesh()
    points = mesh.texel_points
    lips = mesh.masks["lips"]
    colour = _skin(look, mesh, points, rng)
    colour = _spots(colour, look, points, rng)
    colour = _make_up(colour, look, mesh, points, rng)
    grain = cv2.GaussianBlur(rng.normal(0, 1, ATLAS_SHAPE).astype(np.float32), (0, 0), 0.8)
    grain = 0.5 + 1.1 * grain / np.abs(grain).max()
    brows = _brows(look, points, grain, rng)
    brow_colour = np.minimum(look.hair, 0.08) * 0.7 + 0.15 * look.hair
    colour = colour * (1 - brows[..., None]) + brows[..., None] * brow_colour
    roots = _roots(look, points, lips, grain, rng)
    colour = colour * (1 - roots[..., None]) + roots[..., None] * (
        look.hair * 0.6 + look.skin * 0.06
    )
    shiny = (
        _bump(points, 0, 0.70, 0.012, 0.03)
        + _bump(points, 0, 0.77, 0.04, 0.02)
        + 0.6 * _bump(points, 0.045, 0.705, 0.02, 0.015)
    )
    gloss = (0.16 + 0.22 * shiny + 0.35 * lips) * (1 + 0.5 * smooth_noise(rng, ATLAS_SHAPE, 120))
    gloss = gloss * (1 - 0.7 * roots) * (1 - 0.9 * brows) * 0.5
    texture = np.concatenate([np.clip(colour, 0.004, 1), np.clip(gloss, 0, 1)[..., None]], -1)
    return texture.astype(np.float32)


@cache
def creases() -> NDArray[np.float32]:
    """Where skin folds [H, W, 4]: forehead, between the brows, beside the mouth, by the eyes."""
    points = load_mesh().texel_points
    x, y, z = np.abs(points[..., 0]), points[..., 1], points[..., 2]
    on_face = smooth(-0.02, -0.08, y) * smooth(0.58, 0.62, z)
    wave = smooth_noise(np.random.default_rng(7), ATLAS_SHAPE, 25)
    forehead = np.zeros(ATLAS_SHAPE)
    for height in (0.7625, 0.771, 0.780):
        line = np.exp(-(((z - height + 0.06 * (x - 0.02) - 0.002 * wave) / 0.0013) ** 2))
        forehead = np.maximum(forehead, line * smooth(0.052, 0.035, x))
    between = np.exp(-(((x - 0.007 - 0.0015 * wave) / 0.0014) ** 2)) * smooth(0.740, 0.746, z)
    between = between * smooth(0.764, 0.755, z)
    fold_x = np.interp(z, [0.655, 0.665, 0.690], [0.036, 0.033, 0.019])
    beside = np.exp(-(((x - fold_x) / 0.0022) ** 2)) * smooth(0.650, 0.660, z)
    beside = beside * smooth(0.694, 0.686, z)
    rays = np.zeros(ATLAS_SHAPE)
    for slope in (-0.45, 0.05, 0.5):
        line = np.exp(-(((z - 0.7265 - slope * (x - 0.049)) / 0.0009) ** 2))
        rays = np.maximum(rays, line * smooth(0.051, 0.054, x) * smooth(0.066, 0.058, x))
    stacked = np.stack([forehead, between, beside, rays], -1) * on_face[..., None]
    return stacked.astype(np.float32)


def _skin(look: Complexion, mesh: Mesh, points: Floats, rng: np.random.Generator) -> Floats:
    """Base tone with mottling, blush, tired eyes and nostrils."""
    grain = rng.normal(0, 1, ATLAS_SHAPE).astype(np.float32) * rng.uniform(0.3, 0.8)
    mottled = 1 + 0.05 * smooth_noise(rng, ATLAS_SHAPE, 18)
    mottled = mottled + 0.035 * smooth_noise(rng, ATLAS_SHAPE, 60) + 0.05 * grain
    colour = look.skin * mottled[..., None]
    blush = (
        0.5 * _bump(points, 0.045, 0.690, 0.022, 0.02)
        + 0.5 * _bump(points, 0, 0.692, 0.014, 0.012)
        + 0.4 * _bump(points, 0, 0.628, 0.02, 0.012)
        + 0.3 * mesh.masks["ears"]
    )
    blush = blush * rng.uniform(0.3, 1.3) * (1 + 0.4 * smooth_noise(rng, ATLAS_SHAPE, 40))
    blush = np.clip(blush, 0, 1)[..., None] * (1 - 0.6 * look.darkness)
    colour = colour * (1 + blush * np.array([0.06, -0.22, -0.20]))
    tired = _bump(points, 0.030, 0.712, 0.016, 0.006) * rng.uniform(0, 0.5)
    tired = tired + 0.25 * _bump(points, 0.013, 0.729, 0.008, 0.012)
    colour = colour * (1 - tired[..., None] * np.array([0.22, 0.28, 0.22]))
    nostrils = np.clip(_bump(points, 0.0075, 0.6815, 0.004, 0.0028), 0, 1)
    return np.asarray(colour * (1 - 0.75 * nostrils[..., None]))


def _spots(colour: Floats, look: Complexion, points: Floats, rng: np.random.Generator) -> Floats:
    """Freckles and moles."""
    freckles = int(rng.choice([0, 0, 0, 150, 320])) * (look.darkness < 0.45)
    moles = int(rng.integers(0, 6))
    front = np.flatnonzero((points[..., 1] < -0.06) & (points[..., 2] > 0.6))
    place = points.reshape(-1, 3)[front][:, [0, 2]]
    flat = np.array(colour).reshape(-1, 3)
    for count, size, depth in ((freckles, 0.0011, 0.25), (moles, 0.0016, 0.5)):
        at_x = rng.normal(0, 0.035, count)
        is_mole = count < 20
        at_z = rng.uniform(0.63, 0.78, count) if is_mole else rng.normal(0.705, 0.022, count)
        radii, strengths = rng.uniform(0.6, 1.5, count) * size, rng.uniform(0.4, 1, count)
        for x, z, radius, strength in zip(at_x, at_z, radii, strengths, strict=True):
            offset = place - (x, z)
            near = np.abs(offset).max(1) < 2 * radius
            fade = np.exp(-(offset[near] ** 2).sum(1) / radius**2)[:, None]
            flat[front[near]] *= 1 - strength * depth * fade * np.array([0.6, 0.85, 1.0])
    return flat.reshape(colour.shape)


def _make_up(
    colour: Floats, look: Complexion, mesh: Mesh, points: Floats, rng: np.random.Generator
) -> Floats:
    """Lips, with or without lipstick, and eye shadow."""
    natural = look.is_male or rng.random() < 0.5
    lip = look.skin * np.array([0.86, 0.50, 0.48]) * (1 - 0.15 * look.darkness)
    if not natural:
        lip = LIPSTICKS[rng.integers(len(LIPSTICKS))] * (1 - 0.4 * look.darkness)
    opacity = mesh.masks["lips"][..., None] * rng.uniform(0.55, 0.95)
    texture = 1 + 0.10 * smooth_noise(rng, ATLAS_SHAPE, 90)[..., None]
    colour = colour * (1 - opacity) + opacity * lip * texture
    if not look.is_male and rng.random() < 0.4:
        lids = 0.8 * mesh.masks["eyelids"] + 0.6 * _bump(points, 0.032, 0.737, 0.02, 0.008)
        opacity = np.clip(lids, 0, 1)[..., None] * rng.uniform(0.2, 0.6)
        shadow = look.skin * EYE_SHADOWS[rng.integers(len(EYE_SHADOWS))] * 1.6
        colour = colour * (1 - opacity) + opacity * shadow
    return colour


def _brows(look: Complexion, points: Floats, grain: Floats, rng: np.random.Generator) -> Floats:
    """Opacity of the eyebrows."""
    shift, arch = rng.normal(0.0006, 0.0014), rng.normal(0.0015, 0.0016)
    thick = rng.uniform(0.6, 1.35) * (1.15 if look.is_male else 0.8)
    x = np.abs(points[..., 0])
    line = np.array([0.7490, 0.7515, 0.7540, 0.7522, 0.7462]) + shift
    line = line + np.array([0, 0.25, 0.6, 0.6, 0]) * arch
    height = np.interp(x, [0.010, 0.022, 0.034, 0.044, 0.054], line)
    widths = np.array([0.0012, 0.0034, 0.0034, 0.0026, 0.0008]) * thick
    half = np.interp(x, [0.008, 0.013, 0.028, 0.042, 0.055], widths)
    ends = smooth(0.008, 0.017, x) * (1 - smooth(0.046, 0.057, x)) * (points[..., 1] < -0.06)
    inside = np.clip(1.3 - np.abs(points[..., 2] - height) / half, 0, 1) * ends
    hairs = np.clip(inside * 1.35 * (0.45 + 0.75 * grain), 0, 1)
    return np.asarray(hairs * rng.uniform(0.5, 0.9))


def _roots(
    look: Complexion, points: Floats, lips: Floats, grain: Floats, rng: np.random.Generator
) -> Floats:
    """Opacity of hair roots on the scalp and of stubble."""
    y, z = points[..., 1], points[..., 2]
    roots = np.zeros(ATLAS_SHAPE)
    if look.hair_style != "bald":
        offset = points[..., :2] - AXIS
        above = z - hairline(np.arctan2(offset[..., 0], -offset[..., 1]))
        strength = 0.55 if look.hair_style in ("buzz", "receding") else 0.75
        roots = smooth(-0.009, 0.011, above) * (z > 0.64) * strength
        if look.hair_style == "receding":
            roots = roots * (1 - smooth(-0.03, -0.07, y) * smooth(0.76, 0.79, z))
    if look.beard != "none":
        strength = {"stubble": rng.uniform(0.25, 0.6), "short": 0.75}.get(look.beard, 0.7)
        roots = np.maximum(roots, beard_field(points, look.beard) * (1 - lips) * strength)
    elif look.is_male:
        shaven = beard_field(points, "full") * (1 - lips) * rng.uniform(0, 0.2)
        roots = np.maximum(roots, shaven)
    return np.clip(roots * (0.55 + 0.6 * grain), 0, 1)
