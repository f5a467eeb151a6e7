"""Garments, glasses and backgrounds."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from preprocessing.synthetic.appearance.fields import linear_rgb, smooth, smooth_noise
from preprocessing.synthetic.appearance.geometry import Layer, Surface, tube
from preprocessing.synthetic.body.mesh import Mesh
from preprocessing.synthetic.renderer.kernels import Material

GARMENTS = ("crew", "v-neck", "high", "wide")
PATTERNS = ("plain", "stripes", "checks", "blotches")
CLOTH_COLOURS = linear_rgb([
    (40, 44, 60), (200, 200, 205), (120, 30, 36), (36, 82, 60), (50, 90, 150), (190, 150, 90),
    (24, 24, 26), (150, 110, 150), (200, 175, 80), (90, 96, 100), (200, 110, 90), (120, 160, 170),
])  # fmt: skip


@dataclass(frozen=True)
class Garment:
    """Cut, pattern and colours (linear RGB) of what is worn."""

    cut: str
    pattern: str
    colour: NDArray[np.float32]
    second: NDArray[np.float32]
    # Waves of the pattern in each metre, times 2 pi.
    frequency: float


def sample_garment(is_male: bool, rng: np.random.Generator) -> Garment:
    """Draw a garment."""
    cut = rng.choice(["crew", "crew", "v-neck", "high", "crew" if is_male else "wide"])
    colour = CLOTH_COLOURS[rng.integers(len(CLOTH_COLOURS))] * rng.uniform(0.6, 1.3)
    other = CLOTH_COLOURS[rng.integers(len(CLOTH_COLOURS))]
    second = other if rng.random() < 0.4 else colour * 0.8
    return Garment(
        str(cut),
        str(rng.choice(["plain", *PATTERNS])),
        np.clip(colour, 0.01, 0.9).astype(np.float32),
        np.clip(second, 0.01, 0.9).astype(np.float32),
        float(rng.uniform(120, 420)),
    )


def dress(mesh: Mesh, garment: Garment, rng: np.random.Generator) -> Layer:
    """Return the layer of cloth over shoulders and chest."""
    x, y, z = mesh.points.T
    offset = mesh.points[:, :2] - np.array([0, 0.02])
    front = 0.5 - 0.5 * offset[:, 1] / (np.linalg.norm(offset, axis=1) + 1e-6)
    # The chin juts out in front and is no shoulder.
    outward = np.hypot(offset[:, 0], offset[:, 1] * np.where(offset[:, 1] < 0, 0.45, 1))
    level = {
        "crew": 0.570 - 0.022 * front,
        "v-neck": 0.574 - 0.020 * front,
        "high": 0.602 - 0.012 * front,
        "wide": 0.560 - 0.045 * front,
    }[garment.cut]
    if garment.cut == "v-neck":
        notch = np.clip(0.085 - np.abs(x) * 1.15, 0, 0.1) * (y < -0.02)
        level = level - notch * rng.uniform(0.5, 1)
    shoulder = 0.105 if garment.cut == "wide" else 0.075
    inside = level - z + 1.3 * np.maximum(outward - shoulder, 0)
    keep = (inside[mesh.quads] > -0.012).any(1) & (mesh.material == Material.SKIN)
    keep &= (z[mesh.quads] < 0.625).all(1)
    base, index = np.unique(mesh.quads[keep], return_inverse=True)
    height = 0.004 + 0.006 * smooth(0, 0.04, inside[base])
    coordinates = np.stack([x[base], z[base], inside[base], 0 * z[base]], 1)
    return Layer(
        Material.CLOTH,
        base,
        height.astype(np.float32),
        coordinates.astype(np.float32),
        index.reshape(-1, 4),
        casts_shadow=False,
    )


def glasses(rng: np.random.Generator) -> list[Surface]:
    """Return rims, bridge and arms of glasses without lenses."""
    width, height = rng.uniform(0.021, 0.026), rng.uniform(0.015, 0.022)
    squareness, radius = rng.choice([2, 2.6, 4]), rng.uniform(0.0009, 0.0019)
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    cosine, sine = np.cos(angle), np.sin(angle)
    power = 2 / squareness
    wires = []
    for side in (-1, 1):
        x = side * 0.0325 + width * np.sign(cosine) * np.abs(cosine) ** power
        z = 0.7265 + height * np.sign(sine) * np.abs(sine) ** power
        y = -0.1555 + 0.25 * np.maximum(np.abs(x) - 0.03, 0)
        wires.append(tube(np.stack([x, y, z], 1), radius, closed=True))
        hinge = 0.0325 + width
        t = np.linspace(0, 1, 8)
        arm_x = side * (hinge + (0.081 - hinge) * np.minimum(t * 3, 1))
        arm_y = -0.1555 + 0.25 * (hinge - 0.03) + t * 0.125
        wires.append(tube(np.stack([arm_x, arm_y, np.full(8, 0.733)], 1), radius))
    t = np.linspace(-1, 1, 7)
    bridge = [t * (0.0325 - width), -0.1555 - 0.002 * (1 - t**2), 0.731 + 0.003 * (1 - t**2)]
    return [*wires, tube(np.stack(bridge, 1), radius)]


def background(rng: np.random.Generator, side: int = 160) -> NDArray[np.float32]:
    """Return a room out of focus, sRGB [side, side, 3] in [0, 1]."""
    tints = rng.uniform(0.12, 0.85, (2, 3))
    first, second = tints * 0.35 + tints.mean(1, keepdims=True) * 0.65
    y, x = np.mgrid[0:side, 0:side] / side
    angle = rng.uniform(0, 2 * np.pi)
    t = np.clip(0.5 + (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle), 0, 1)[..., None]
    image = (first * (1 - t) + second * t).astype(np.float32)
    kind = rng.integers(4)
    if kind in (1, 2):
        for _ in range(rng.integers(3, 12)):
            shift = rng.normal(0, 0.13) + rng.normal(0, 0.05, 3)
            colour = np.clip(first + shift, 0, 1).tolist()
            corner, size = rng.integers(0, side, 2), rng.integers(10, 80, 2)
            if kind == 1:
                cv2.rectangle(image, corner.tolist(), (corner + size).tolist(), colour, -1)
            else:
                cv2.circle(image, corner.tolist(), int(size[0] // 2), colour, -1)
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(2.0, 8)))
    if kind == 3:
        cloud = smooth_noise(rng, (side, side), 5) + 0.5 * smooth_noise(rng, (side, side), 12)
        image = image + 0.1 * cv2.GaussianBlur(cloud, (0, 0), float(rng.uniform(3, 8)))[..., None]
    return np.clip(image, 0, 1).astype(np.float32)
