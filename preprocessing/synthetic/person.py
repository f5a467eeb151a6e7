"""A person who never lived: shape, colours, hair, clothes, light and framing from a seed."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from preprocessing.errors import UserError
from preprocessing.synthetic.appearance.fields import linear_rgb, smooth
from preprocessing.synthetic.appearance.geometry import Bound, Layer, bind
from preprocessing.synthetic.appearance.hair import (
    BEARDS,
    STYLES,
    grow_beard,
    grow_hair,
    strand_texture,
)
from preprocessing.synthetic.appearance.paint import Complexion, paint
from preprocessing.synthetic.appearance.wardrobe import (
    PATTERNS,
    Garment,
    background,
    dress,
    glasses,
    sample_garment,
)
from preprocessing.synthetic.body.mesh import Mesh, load_mesh
from preprocessing.synthetic.body.shape import Shape, sample_phenotype, sample_shape

#: Seeds are below this, so that one person's number never stands for another.
SEEDS = 2**32
SKIN_TONES = linear_rgb([
    (236, 196, 174), (226, 180, 152), (212, 160, 128), (192, 136, 102),
    (170, 113, 78), (124, 80, 55), (88, 57, 42), (62, 42, 34),
])  # fmt: skip
HAIR_COLOURS = linear_rgb([
    (18, 15, 14), (34, 24, 20), (58, 38, 26), (92, 60, 36), (120, 62, 30),
    (150, 80, 36), (164, 124, 72), (206, 172, 112), (128, 124, 120), (208, 205, 200),
])  # fmt: skip
DYES = linear_rgb([(150, 40, 60), (60, 60, 150), (40, 120, 110), (180, 90, 140)])
IRIS_COLOURS = linear_rgb([
    (58, 34, 18), (84, 52, 24), (120, 84, 40), (104, 104, 60),
    (78, 110, 84), (84, 118, 150), (110, 150, 186), (120, 130, 138),
])  # fmt: skip
FRAME_COLOURS = linear_rgb(
    [(20, 20, 22), (110, 70, 40), (150, 150, 155), (120, 30, 30), (40, 50, 90)]
)

Value = float | int | NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Person:
    """Everything about a person that does not move."""

    seed: int
    shape: Shape
    complexion: Complexion
    garment: Garment
    has_glasses: bool
    # Values of `shading.Look` by field.
    look: dict[str, Value]
    # Skin texture [H, W, 4], strand texture [S, S] and background [B, B, 3].
    skin: NDArray[np.float32]
    strands: NDArray[np.float32]
    background: NDArray[np.float32]
    layers: tuple[Layer, ...]
    surfaces: tuple[Bound, ...]
    # Length of the lashes in metres.
    lashes: float
    # Centre and side in metres of the square that the frame shows of the person at rest.
    centre: NDArray[np.float64]
    side: float

    def traits(self) -> dict[str, str | float | bool | int]:
        """Return what was drawn, flat, as `people.parquet` keeps it."""
        look, body = self.complexion, self.shape.phenotype
        return {
            "seed": self.seed,
            "gender": body.gender,
            "age": body.age,
            "muscle": body.muscle,
            "weight": body.weight,
            "african": body.african,
            "asian": body.asian,
            "caucasian": body.caucasian,
            "skin_darkness": look.darkness,
            "hair_style": look.hair_style,
            "beard": look.beard,
            "glasses": self.has_glasses,
            "garment": self.garment.cut,
            "pattern": self.garment.pattern,
            **{f"rest.{name}": value for name, value in self.shape.resting.items()},
            **{f"shape.{name}": value for name, value in self.shape.local.items()},
        }


@lru_cache(maxsize=4)
def sample_person(seed: int) -> Person:
    """Draw the person of a seed, always the same one; takes about half a second.

    Raises:
        UserError: the seed is not in [0, 2^32).
    """
    if not 0 <= seed < SEEDS:
        raise UserError(f"the person's seed is {seed}", f"give 0 to {SEEDS - 1}")
    mesh = load_mesh()
    # One stream for each trait, so that a change to one leaves the others as they are.
    streams = np.random.default_rng([seed, 77]).spawn(8)
    body, colours, lighting, painting, clothes, hair, framing, room = streams
    shape = sample_shape(mesh.asset, sample_phenotype(body), body)
    complexion = _complexion(shape, colours)
    garment = sample_garment(complexion.is_male, clothes)
    has_glasses = bool(clothes.random() < 0.18)
    rest = np.asarray(mesh.matrix @ shape.rest)
    scalp, free = grow_hair(mesh, complexion.hair_style, hair)
    if has_glasses:
        free = [*free, *glasses(clothes)]
    centre, side = _framing(mesh, shape, rest, framing)
    look = _colours(complexion, garment, colours) | _light(lighting)
    return Person(
        seed=seed,
        shape=shape,
        complexion=complexion,
        garment=garment,
        has_glasses=has_glasses,
        look=look,
        skin=paint(complexion, painting),
        strands=strand_texture(hair, complexion.hair_style),
        background=background(room),
        layers=(*scalp, *grow_beard(mesh, complexion.beard, hair), dress(mesh, garment, clothes)),
        surfaces=tuple(bind(surface, mesh, rest) for surface in free),
        lashes=float(
            hair.uniform(0.0002, 0.0009) if complexion.is_male else hair.uniform(0.0006, 0.0026)
        ),
        centre=centre,
        side=side,
    )


def _complexion(shape: Shape, rng: np.random.Generator) -> Complexion:
    body = shape.phenotype
    tone = (
        rng.normal(0.13, 0.10) * body.caucasian
        + rng.normal(0.30, 0.12) * body.asian
        + rng.normal(0.74, 0.16) * body.african
    )
    darkness = float(np.clip(tone, 0, 1))
    position = np.arange(len(SKIN_TONES)) / (len(SKIN_TONES) - 1)
    skin = np.array([np.interp(darkness, position, channel) for channel in SKIN_TONES.T])
    skin = skin * (1 + rng.normal(0, 0.04, 3))
    is_male = body.gender < 0.5
    wrinkles = float(smooth(0.35, 0.95, body.age))
    styles = list(STYLES)
    weights = np.array([STYLES[name][0 if is_male else 1] for name in styles])
    weights[styles.index("afro")] += 0.2 * body.african
    weights[styles.index("receding")] *= 1 + wrinkles
    style = str(rng.choice(styles, p=weights / weights.sum()))
    beards = list(BEARDS)
    beard = str(rng.choice(beards, p=list(BEARDS.values()))) if is_male else "none"
    return Complexion(
        skin=skin.astype(np.float32),
        darkness=darkness,
        hair=_hair_colour(_fairness(shape, darkness), wrinkles, rng),
        is_male=is_male,
        wrinkles=wrinkles,
        hair_style=style,
        beard=beard,
    )


def _fairness(shape: Shape, darkness: float) -> float:
    """Probability of hair and eyes that are not dark."""
    return max(0.0, shape.phenotype.caucasian - 0.35) / 0.65 * (darkness < 0.3)


def _hair_colour(fairness: float, wrinkles: float, rng: np.random.Generator) -> NDArray[np.float32]:
    dark = int(rng.choice(4, p=[0.35, 0.3, 0.2, 0.15]))
    index = int(rng.integers(2, 8)) if rng.random() < fairness * 0.9 else dark
    colour = HAIR_COLOURS[index] * rng.uniform(0.8, 1.25)
    if wrinkles * rng.random() > 0.35:
        colour = colour * 0.25 + HAIR_COLOURS[rng.choice([8, 9])] * 0.75
    if rng.random() < 0.04:
        colour = DYES[rng.integers(len(DYES))]
    return np.asarray(colour, np.float32)


def _colours(
    complexion: Complexion, garment: Garment, rng: np.random.Generator
) -> dict[str, Value]:
    fair = complexion.darkness < 0.3 and rng.random() < 0.6
    iris = IRIS_COLOURS[rng.integers(2, 8) if fair else rng.integers(0, 3)]
    iris = iris * rng.uniform(0.8, 1.2)
    dull = complexion.hair_style in ("curly", "afro", "buzz")
    shine = 0.0 if dull else rng.uniform(0.15, 0.9) * (0.08 + complexion.hair.mean())
    return {
        "iris": iris,
        "iris_inner": iris * np.array([1.5, 1.2, 0.8]),
        "sclera": linear_rgb((232, 227, 224)) * rng.uniform(0.88, 1),
        "iris_size": rng.uniform(0.43, 0.49),
        "pupil_size": rng.uniform(0.28, 0.46),
        "teeth": linear_rgb((232, 224, 208)) * rng.uniform(0.75, 1),
        "mouth": linear_rgb((136, 52, 50)),
        "hair": complexion.hair * 0.75,
        "hair_light": complexion.hair * 1.35,
        "hair_shine": float(shine),
        "frame": FRAME_COLOURS[rng.integers(len(FRAME_COLOURS))],
        "cloth": garment.colour,
        "cloth_second": garment.second,
        "pattern": PATTERNS.index(garment.pattern),
        "frequency": garment.frequency,
        "skin_shine": rng.uniform(0.5, 1.2),
    }


def _light(rng: np.random.Generator) -> dict[str, Value]:
    """A key light, an environment that is brighter towards one side, perhaps light from behind."""
    azimuth, elevation = np.radians(rng.uniform(-65, 65)), np.radians(rng.uniform(8, 55))
    direction = np.array(
        [
            np.sin(azimuth) * np.cos(elevation),
            -np.cos(azimuth) * np.cos(elevation),
            np.sin(elevation),
        ]
    )
    warm = rng.normal(0, 0.8)
    sky = np.array([1 - 0.05 * warm, 1, 1 + 0.06 * warm]) * rng.uniform(0.28, 0.5)
    ground = sky * rng.uniform(0.45, 0.8) * np.array([1.05, 0.97, 0.9])
    window = rng.uniform(-0.5, 0.5) * sky * np.array([1 + 0.1 * warm, 1, 1 - 0.1 * warm])
    behind = np.array([-np.sign(direction[0]) * 0.8, 0.45, 0.35])
    return {
        "light": direction,
        "key": np.array([1 + 0.07 * warm, 1, 1 - 0.09 * warm]) * rng.uniform(0.5, 0.9),
        "rim": np.ones(3) * rng.choice([0, rng.uniform(0.1, 0.7)]),
        "rim_direction": behind / np.linalg.norm(behind),
        "ambient": (sky + ground) / 2,
        "ambient_x": window,
        "ambient_y": -sky * rng.uniform(0.05, 0.25),
        "ambient_z": (sky - ground) / 2,
    }


def _framing(
    mesh: Mesh, shape: Shape, rest: NDArray[np.floating], rng: np.random.Generator
) -> tuple[NDArray[np.float64], float]:
    """The square a camera would show: head and hair fill a bit over half of its height."""
    template = mesh.points[mesh.skin]
    head = rest[mesh.skin[(template[:, 2] > 0.62) & (template[:, 1] < 0.2)]]
    top, chin = head[:, 2].max(), head[:, 2].min()
    eyes = np.mean([rest[eye].mean(0) for eye in mesh.eyes], 0)
    height = (top + chin) / 2 - 0.01 * rng.uniform(0, 1.5)
    centre = np.array([eyes[0], shape.joints[-1, 1], height])
    return centre, float((top - chin) * rng.uniform(1.72, 1.9))
