"""Shape of a person: phenotype, local changes of the features, resting expression."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from preprocessing.synthetic.body.asset import PHENOTYPE_FACTORS, Asset
from preprocessing.synthetic.body.pose import rotation
from preprocessing.synthetic.motion.columns import sided

# The arms of the rest pose are lifted by this angle.
_ARM_DEGREES = 38.0
# Standard deviation of local changes by a part of their name; the first that fits.
_SPREAD = (
    (("epicanthus", "pointed", "head-angle", "head-trans", "eye-trans-out"), 0.08),
    (("neck-trans", "neck-double", "cleft", "trans-in", "nose-trans-out", "mouth-trans-out"), 0.1),
    (("ear-trans", "ear-rot", "forehead-nubian", "head-age", "chin-jaw-drop"), 0.15),
    (("head-", "forehead-scale", "neck-"), 0.17),
    (("eye-bag", "eyefold"), 0.3),
    (("eyebrows-angle",), 0.3),
    (("eye-",), 0.27),
    (("mouth-angles",), 0.2),
    (("nose-", "chin-", "mouth-"), 0.45),
)
_OTHER_SPREAD = 0.4
_LIMIT = 0.85


@dataclass(frozen=True)
class Phenotype:
    """What a body is like, each in [0, 1]; the three origins add up to 1."""

    # 0 male, 1 female.
    gender: float
    # 0 young adult, 1 old.
    age: float
    muscle: float
    weight: float
    african: float
    asian: float
    caucasian: float


@dataclass(frozen=True)
class Shape:
    """A person's geometry in metres."""

    phenotype: Phenotype
    # Local changes in [-1, 1] by name.
    local: dict[str, float]
    # Actions of the resting face; the columns of a motion come on top.
    resting: dict[str, float]
    # Coarse vertices at rest [V, 3], and the heads of three neck bones and the head bone [4, 3].
    rest: NDArray[np.float32]
    joints: NDArray[np.float32]


def sample_phenotype(rng: np.random.Generator) -> Phenotype:
    """Draw an adult."""
    african, asian, caucasian = rng.dirichlet([0.35, 0.35, 0.35])
    gender = rng.choice([rng.normal(0.1, 0.1), rng.normal(0.9, 0.1)])
    return Phenotype(
        gender=float(np.clip(gender, 0, 1)),
        age=float(rng.beta(1.1, 1.9) * 0.95),
        muscle=float(rng.uniform(0.3, 0.75)),
        weight=float(np.clip(rng.normal(0.5, 0.17), 0.15, 0.95)),
        african=float(african),
        asian=float(asian),
        caucasian=float(caucasian),
    )


def sample_shape(asset: Asset, phenotype: Phenotype, rng: np.random.Generator) -> Shape:
    """Draw the features of a face with this phenotype."""
    local = _local_changes(asset.local_names, phenotype, rng)
    weights = _phenotype_weights(asset, phenotype)
    signed = np.array([local[name] for name in asset.local_names])
    amounts = np.stack([np.maximum(signed, 0), np.maximum(-signed, 0)], 1).ravel()
    rest = (
        asset.template
        + np.tensordot(weights, asset.phenotype, 1)
        + np.tensordot(amounts, asset.local, 1)
    )
    joints = (
        asset.joints
        + np.tensordot(weights, asset.joints_phenotype, 1)
        + np.tensordot(amounts, asset.joints_local, 1)
    )
    resting = _resting_face(rng)
    for name, value in resting.items():
        rest = rest + value * asset.actions[asset.action_names.index(name)]
    for side, (sign, joint) in enumerate(((1, joints[4]), (-1, joints[5]))):
        turn = rotation((0, sign * np.radians(_ARM_DEGREES), 0))
        lowered = (rest - joint) @ turn.T + joint
        rest = rest + asset.arms[:, side : side + 1] * (lowered - rest)
    return Shape(phenotype, local, resting, rest.astype(np.float32), joints[:4].astype(np.float32))


def _local_changes(
    names: tuple[str, ...], phenotype: Phenotype, rng: np.random.Generator
) -> dict[str, float]:
    """Features vary widely, the shape of the head little; both sides are nearly alike."""
    local: dict[str, float] = {}
    for name in names:
        spread = next(
            (value for words, value in _SPREAD if any(word in name for word in words)),
            _OTHER_SPREAD,
        )
        if name.startswith("r-") and "l-" + name[2:] in local:
            value = local["l-" + name[2:]] + rng.normal(0, 0.04)
        else:
            value = rng.normal(0, spread)
        local[name] = float(np.clip(value, -_LIMIT, _LIMIT))
    if phenotype.asian > 0.55:
        local |= {name: -0.45 for name in names if "epicanthus" in name}
    return local


def _phenotype_weights(asset: Asset, phenotype: Phenotype) -> NDArray[np.float64]:
    """MakeHuman's products of piecewise linear factors."""

    def levels(value: float) -> list[float]:
        return [float(np.interp(value, (0, 0.5, 1), row)) for row in np.eye(3)]

    p = phenotype
    values = dict(
        zip(
            PHENOTYPE_FACTORS,
            [
                p.african, p.asian, p.caucasian, 1 - p.gender, p.gender, 1 - p.age, p.age,
                *levels(p.muscle), *levels(p.weight),
            ],
            strict=True,
        )
    )  # fmt: skip
    factors = np.array([values[name] for name in PHENOTYPE_FACTORS])
    return np.asarray(np.prod(np.where(asset.phenotype_mask > 0, factors, 1.0), axis=1))


def _resting_face(rng: np.random.Generator) -> dict[str, float]:
    """A mild face: the mesh alone looks stern and sleepy."""
    smile = float(np.clip(rng.normal(0.24, 0.10), 0, 0.5))
    resting = dict.fromkeys(sided("mouthSmile"), smile)
    resting |= dict.fromkeys(sided("eyeWide"), float(rng.uniform(0.05, 0.4)))
    resting["browInnerUp"] = float(rng.uniform(0.0, 0.3))
    resting |= dict.fromkeys(sided("browOuterUp"), float(rng.uniform(0.1, 0.45)))
    return resting
